import pytest

from testproject.documents.corpus import CorpusError, Source, files, installed_packages


def test_the_installed_packages_have_descriptions_worth_a_demo():
    sources = installed_packages()

    assert len(sources) >= 20
    assert len({source.name for source in sources}) == len(sources)
    assert min(len(source.text) for source in sources) >= 300
    assert "web framework" in next(source.text for source in sources if source.name == "Django")


def test_a_folder_gives_its_text_files_in_order_each_once(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("bé", encoding="utf-8")
    (tmp_path / "deep" / "a.RST").write_text("a")
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfwith a byte order mark")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")

    sources = files([tmp_path / "b.md", tmp_path])

    assert sources == [
        Source(str(tmp_path / "b.md"), "bé"),
        Source(str(tmp_path / "c.txt"), "with a byte order mark"),
        Source(str(tmp_path / "deep" / "a.RST"), "a"),
    ]


def test_a_file_named_itself_may_end_in_anything(tmp_path):
    (tmp_path / "README").write_text("text")

    assert [source.text for source in files([str(tmp_path / "README")])] == ["text"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"caf\xe9", "is not UTF-8 text (byte 3)"), (b"a\0b", "is not text but a binary file")],
)
def test_a_file_that_is_not_text_is_named(tmp_path, content, reason):
    path = tmp_path / "odd.txt"
    path.write_bytes(content)

    with pytest.raises(CorpusError) as error:
        files([path])

    assert str(error.value).startswith(f"{path} {reason}")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere does not exist"):
        files([tmp_path / "nowhere"])


def test_a_folder_without_text_files_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no \.txt, \.md or \.rst file"):
        files([tmp_path])


def test_an_unreadable_path_is_named(tmp_path):
    path = tmp_path / "loop.txt"
    path.symlink_to(path)

    with pytest.raises(CorpusError, match=r"loop\.txt cannot be read"):
        files([path])
