"""No pages: worker processes of tests serve none."""

urlpatterns: list[object] = []
