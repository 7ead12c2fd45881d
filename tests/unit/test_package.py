import pytest

import django_jobs


@pytest.mark.parametrize("name", django_jobs.__all__)
def test_every_public_name_is_there(name):
    assert getattr(django_jobs, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'django_jobs' has no attribute 'enque'"):
        _ = django_jobs.enque


def test_every_error_has_the_base_and_says_when_it_is_raised():
    from django_jobs import exceptions

    errors = [error for error in vars(exceptions).values() if isinstance(error, type)]

    assert all(issubclass(error, django_jobs.exceptions.JobsError) for error in errors)
    assert all(error.__doc__ for error in errors)
