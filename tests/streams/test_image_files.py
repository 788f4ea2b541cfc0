"""Which files a user means who names files and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streams.cli.image_files import Selection, find_images


def put(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(str(file).encode())


def ids(found: Selection) -> dict[str, str]:
    """Labels by id."""
    assert len({image.image_id for image in found.images}) == len(found.images)
    return {image.image_id: image.folder for image in found.images}


def test_ids_of_one_folder_are_relative_to_it(tmp_path: Path) -> None:
    put(tmp_path / "cat" / "1.png", tmp_path / "dog" / "old" / "1.JPG")
    assert ids(find_images([tmp_path])) == {"cat/1.png": "cat", "dog/old/1.JPG": "old"}


def test_files_of_many_folders_have_ids_of_their_own(tmp_path: Path) -> None:
    """A camera calls the first image of each month the same."""
    months = [tmp_path / name for name in ("march", "april")]
    put(*(month / "IMG_0001.png" for month in months))
    expected = {"march/IMG_0001.png": "march", "april/IMG_0001.png": "april"}
    assert ids(find_images(months)) == expected
    assert ids(find_images([month / "IMG_0001.png" for month in months])) == expected
    assert ids(find_images([tmp_path])) == expected


def test_a_file_alone_or_beside_others_is_called_by_its_name(tmp_path: Path) -> None:
    put(tmp_path / "1.png", tmp_path / "2.png")
    assert list(ids(find_images([tmp_path / "1.png"]))) == ["1.png"]
    assert list(ids(find_images([tmp_path / "1.png", tmp_path / "2.png"]))) == ["1.png", "2.png"]


def test_a_file_that_is_named_twice_is_one(tmp_path: Path) -> None:
    file = tmp_path / "cat" / "1.png"
    put(file)
    again = tmp_path / "cat" / ".." / "cat" / "1.png"
    assert len(find_images([file, again, tmp_path / "cat"]).images) == 1


def test_the_folder_one_is_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "cats" / "1.png", tmp_path / "cats" / "old" / "2.png")
    monkeypatch.chdir(tmp_path / "cats")
    assert ids(find_images([Path()])) == {"1.png": "cats", "old/2.png": "old"}
    monkeypatch.chdir("old")
    assert ids(find_images([Path("..")])) == {"1.png": "cats", "old/2.png": "old"}


def test_what_is_passed_over_is_counted_by_kind(tmp_path: Path) -> None:
    put(
        *(tmp_path / name for name in ("a.png", "b.jfif", "c.MOV", "d.mov", "README", ".e.png")),
        tmp_path / ".thumbnails" / "f.png",
        tmp_path / "@eaDir" / "a.png" / "SYNOPHOTO.jpg",
        tmp_path / "__MACOSX" / "._a.png",
    )
    found = find_images([tmp_path])
    assert list(ids(found)) == ["a.png", "b.jfif"]
    assert found.passed_over == {".mov": 2, "without a suffix": 1, "hidden or thumbnails": 4}


def test_what_is_named_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    put(tmp_path / ".hidden", tmp_path / ".album" / "1.png")
    assert list(ids(find_images([tmp_path / ".hidden"]))) == [".hidden"]
    assert list(ids(find_images([tmp_path / ".album"]))) == ["1.png"]


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "1.png", tmp_path / "photos" / "cat" / "2.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "cat" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "elsewhere" / "self").symlink_to(".")
    assert ids(find_images([tmp_path / "photos"])) == {
        "cat/2.png": "cat",
        "linked/1.png": "linked",
    }


def test_what_cannot_be_read_is_named_and_the_rest_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a.png", tmp_path / "closed" / "b.png", tmp_path / "shut.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    iterdir, opened = Path.iterdir, Path.open

    def refuse(path: Path) -> None:
        # Root, as which tests may run, may read all.
        if path.name in ("closed", "shut.png"):
            raise PermissionError(13, "Permission denied", str(path))

    def listing(path: Path) -> object:
        refuse(path)
        return iterdir(path)

    def opening(path: Path, mode: str) -> object:
        refuse(path)
        return opened(path, mode)

    monkeypatch.setattr(Path, "iterdir", listing)
    monkeypatch.setattr(Path, "open", opening)
    found = find_images([tmp_path, tmp_path / "typo"])
    assert [image.path.name for image in found.images] == ["a.png"]
    assert {path.name: why for path, why in found.unreadable.items()} == {
        "closed": "Permission denied",
        "shut.png": "Permission denied",
        "gone.png": "No such file or directory",
        "pipe.png": "a pipe, socket or device",
        "typo": "No such file or directory",
    }
