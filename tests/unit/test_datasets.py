"""Readers of data sets: on small files made here, on wrong ones, and on the real sets where they are present."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recsvc.datasets import FORMATS, Dataset, DatasetError, open_dataset
from recsvc.datasets.ids import event_id
from recsvc.datasets.seed import seed_dataset
from recsvc.domain.text import name_fault

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("RECSVC_DATA_DIR") or REPOSITORY.parent / "shared" / "data")


def write(folder: Path, **files: str) -> Path:
    """Files by name; `u_data` stands for `u.data`."""
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text, encoding="utf-8")
    return folder


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not in {DATA}; set RECSVC_DATA_DIR to a folder that has it")
    return DATA / name


def counts(dataset: Dataset) -> tuple[int, int, int]:
    """Users, items and events; all ids are checked on the way."""
    items = [item.item_id for item in dataset.items()]
    users = [user.user_id for user in dataset.users()]
    known_items, known_users = set(items), set(users)
    events = set()
    number = 0
    for event in dataset.events():
        number += 1
        events.add(event.event_id)
        assert event.item_id in known_items
        assert event.user_id in known_users
        assert event.event_time.tzinfo is not None
    assert (len(known_items), len(known_users), len(events)) == (len(items), len(users), number)
    assert all(name_fault(element) is None for element in (*items, *users, *events))
    return len(users), len(items), number


# MovieLens


def ml_100k(folder: Path) -> Path:
    write(
        folder,
        u_data="1\t10\t4\t881250949\n2\t10\t3\t881250950\n",
        u_user="1|24|M|technician|85711\n2|53|F|other|94043\n",
    )
    write(folder, u_genre="unknown|0\nAction|1\nDrama|2\n", ua_base="1\t10\t4\t881250949\n")
    film = "10|Misérables, Les (1995)|01-Jan-1995||http://x|0|1|1\n11|unknown||||1|0|0\n"
    (folder / "u.item").write_bytes(film.encode("latin-1"))
    return folder


def test_movielens_1998_layout_is_read(tmp_path: Path):
    dataset = open_dataset("movielens", ml_100k(tmp_path))
    film, unknown = dataset.items()
    assert (film.item_id, film.title, film.categories) == ("10", "Misérables, Les (1995)", ("Action", "Drama"))
    assert film.attributes == {"year": 1995.0}
    assert (unknown.categories, unknown.attributes) == ((), {})
    assert next(dataset.users()).attributes == {"age": 24.0, "gender": "M", "occupation": "technician"}
    event = next(dataset.events())
    assert (event.event_id, event.event_type, event.value) == ("ml:1:10:881250949", "rate", 4.0)
    assert event.event_time == datetime.fromtimestamp(881250949, UTC)
    assert (dataset.item_count, dataset.event_count) == (2, 2)


def test_movielens_split_can_be_chosen(tmp_path: Path):
    assert len(list(open_dataset("movielens", ml_100k(tmp_path), "ua.base").events())) == 1


def ml_csv(folder: Path) -> Path:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,5,2.5,1260759144\n1,6,3.0,1260759179\n")
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n5,"Matrix, The (1999)",Action|Sci-Fi\n6,Big Bang Theory (2007-),(no genres listed)\n'
    )
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,5,Hacking,1\n2,5,hacking,1\n1,5,bullet time,1\n")
    return folder


def test_movielens_csv_layout_is_read(tmp_path: Path):
    dataset = open_dataset("movielens", ml_csv(tmp_path))
    film, series = dataset.items()
    assert (film.title, film.categories, film.tags) == (
        "Matrix, The (1999)",
        ("Action", "Sci-Fi"),
        ("hacking", "bullet time"),
    )
    assert (series.categories, series.attributes) == ((), {"year": 2007.0})
    assert [event.value for event in dataset.events()] == [2.5, 3.0]
    assert [user.user_id for user in dataset.users()] == ["1"]


def test_movielens_is_read_from_a_zip_archive(tmp_path: Path):
    folder = tmp_path / "ml-small"
    folder.mkdir()
    archive = tmp_path / "ml-small.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in ml_csv(folder).iterdir():
            target.write(file, f"ml-small/{file.name}")
    assert list(open_dataset("movielens", archive).events()) == list(open_dataset("movielens", folder).events())


def test_movielens_atomic_files_are_read_from_a_wheel(tmp_path: Path):
    wheel = tmp_path / "recbole-1.0-py3-none-any.whl"
    files = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n",
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tKolya\t1996\tComedy\n267\tunknown\t\tunknown\n",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n196\t49\tM\twriter\t5\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for suffix, text in files.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{suffix}", text)
    dataset = open_dataset("movielens", wheel)
    kolya, unknown = dataset.items()
    assert (kolya.title, kolya.categories, kolya.attributes) == ("Kolya", ("Comedy",), {"year": 1996.0})
    assert (unknown.categories, unknown.attributes) == ((), {})
    assert next(dataset.users()).attributes["age"] == 49.0
    assert next(dataset.events()).event_id == "ml:196:242:881250949"


def test_folder_without_movielens_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="holds no MovieLens files"):
        open_dataset("movielens", tmp_path)


# The other sets


def test_goodbooks_gives_each_user_and_book_one_event(tmp_path: Path):
    (tmp_path / "ratings.csv").write_text("book_id,user_id,rating\n1,7,5\n1,8,3\n1,7,4\n2,7,1\n")
    (tmp_path / "books.csv").write_text(
        "id,book_id,authors,original_publication_year,original_title,title,language_code\n"
        '1,2767052,"J.K. Rowling, Mary GrandPré",1997.0,,Harry Potter,eng\n2,9,Homer,-750.0,Odyssey,,\n',
        encoding="utf-8",
    )
    dataset = open_dataset("goodbooks", tmp_path)
    potter, odyssey = dataset.items()
    assert potter.attributes == {"authors": ["J.K. Rowling", "Mary GrandPré"], "year": 1997.0, "language": "eng"}
    assert (odyssey.item_id, odyssey.title, odyssey.attributes) == (
        "2",
        "Odyssey",
        {"authors": ["Homer"], "year": -750.0},
    )
    assert [(event.event_id, event.value) for event in dataset.events()] == [
        ("gb:7:1", 5),
        ("gb:8:1", 3),
        ("gb:7:2", 1),
    ]


def test_lightgcn_takes_no_order_from_lines_that_are_sorted_by_id(tmp_path: Path):
    write(tmp_path, train_txt="0 5 3 9\n1 3\n2\n", test_txt="0 4\n")
    dataset = open_dataset("lightgcn", tmp_path)
    events = [event for event in dataset.events() if event.user_id == "0"]
    assert [event.item_id for event in events] == ["5", "3", "9"]
    assert len({event.event_time for event in dataset.events()}) == 1
    assert [item.item_id for item in dataset.items()] == ["5", "3", "9", "4"]
    assert [user.user_id for user in dataset.users()] == ["0", "1", "2"]
    assert [event.item_id for event in open_dataset("lightgcn", tmp_path, "test.txt").events()] == ["4"]


def test_online_retail_passes_over_returns_charges_and_strangers(tmp_path: Path):
    text = (
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        '536365,85123A,"HOLDER, WHITE",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n'
        "C536379,85123A,wrongly coded,-1,2010-12-01 09:41:00,27.5,14527.0,France\n"
        "536370,POST,POSTAGE,3,2010-12-01 08:45:00,18.0,12583.0,France\n"
        "536371,85123A,ebay,3,2010-12-01 08:45:00,2.55,,France\n"
    )
    (tmp_path / "online_retail.csv.gz").write_bytes(gzip.compress(text.encode()))
    dataset = open_dataset("online-retail", tmp_path)
    holder, postage = dataset.items()
    assert (holder.title, holder.hidden, postage.hidden) == ("HOLDER, WHITE", False, True)
    (event,) = dataset.events()
    assert (event.event_type, event.user_id, event.session_id, event.value) == ("purchase", "17850", "536365", 15.3)
    assert event.event_time == datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
    assert [user.attributes["country"] for user in dataset.users()] == ["United Kingdom", "France", "France"]


def test_deskdrop_translates_its_event_types(tmp_path: Path):
    header = "timestamp,eventType,contentId,personId,sessionId,userAgent,userRegion,userCountry\n"
    kinds = ("VIEW", "LIKE", "BOOKMARK", "COMMENT CREATED", "FOLLOW")
    lines = "".join(f'1465413032,{kind},-34,-88,12,"Mozilla, 5",NY,US\n' for kind in kinds)
    (tmp_path / "users_interactions.csv").write_text(header + lines)
    dataset = open_dataset("deskdrop", tmp_path)
    events = list(dataset.events())
    assert [event.event_type for event in events] == ["view", "like", "like", "like", "like"]
    assert [event.properties["action"] for event in events] == list(kinds)
    assert events[0].context == {"user_agent": "Mozilla, 5", "region": "NY", "country": "US"}
    assert (events[0].user_id, events[0].session_id, dataset.event_count) == ("-88", "12", 5)


# csv and jsonl


def test_csv_columns_become_fields_and_attributes(tmp_path: Path):
    (tmp_path / "items.csv").write_text(
        "item_id,title,categories,tags,available,publish_time,embedding,year,isbn:string,attributes.sale:bool,cast,code,memo\n"
        "b1,Dune,Fiction|Space,classic,false,2020-01-02T03:04:05Z,0.5|-1,1965,0441013597,1,Ann|Bob,007,\n"
        "b2,,,,,,,,,,,,\n"
    )
    full, empty = open_dataset("csv", tmp_path).items()
    assert (full.title, full.categories, full.tags, full.available) == (
        "Dune",
        ("Fiction", "Space"),
        ("classic",),
        False,
    )
    assert full.publish_time == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert full.embedding == (0.5, -1.0)
    assert full.attributes == {
        "year": 1965.0,
        "isbn": "0441013597",
        "sale": True,
        "cast": ["Ann", "Bob"],
        "code": "007",
    }
    assert (empty.available, empty.attributes, empty.embedding) == (True, {}, None)


def test_csv_events_take_times_as_seconds_or_iso_and_keep_other_columns(tmp_path: Path):
    (tmp_path / "events.csv").write_text(
        "event_type,user_id,session_id,item_id,event_time,value,context.device,page\n"
        "view,u1,,i1,1700000000,,mobile,home\n"
        "rate,,s1,i1,2023-11-14T23:13:20+01:00,4.5,,\n"
    )
    first, second = open_dataset("csv", tmp_path).events()
    assert first.event_time == second.event_time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (first.context, first.properties) == ({"device": "mobile"}, {"page": "home"})
    assert (second.user_id, second.session_id, second.value) == (None, "s1", 4.5)


def test_csv_events_without_ids_get_the_same_ones_every_time(tmp_path: Path):
    (tmp_path / "events.csv").write_text("event_type,user_id,item_id,event_time\n" + "view,u1,i1,1700000000\n" * 2)
    dataset = open_dataset("csv", tmp_path / "events.csv")
    ids = [event.event_id for event in dataset.events()]
    assert len(set(ids)) == 2
    assert ids == [event.event_id for event in dataset.events()]
    assert list(dataset.items()) == []


def test_jsonl_is_read_by_the_names_of_the_contract(tmp_path: Path):
    item = {"item_id": "i1", "tags": ["a"], "attributes": {"year": 1999}, "hidden": True, "etag": "x"}
    event = {
        "event_id": "e1",
        "event_type": "view",
        "user_id": "u1",
        "item_id": "i1",
        "event_time": "2024-01-01T00:00:00.5Z",
    }
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n\n")
    (tmp_path / "users.jsonl").write_text('{"user_id": "u1", "labels": ["vip"], "attributes": {"age": 3}}')
    (tmp_path / "events.jsonl.gz").write_bytes(gzip.compress(json.dumps(event).encode()))
    dataset = open_dataset("jsonl", tmp_path)
    (read,) = dataset.items()
    assert (read.tags, read.attributes, read.hidden, read.available, read.etag) == (
        ("a",),
        {"year": 1999},
        True,
        True,
        "",
    )
    assert next(dataset.users()).labels == ("vip",)
    assert next(dataset.events()).event_time == datetime(2024, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)


# What is wrong is told with file and line


@pytest.mark.parametrize(
    ("name", "file", "text", "line", "what"),
    [
        ("movielens", "u.data", "1\t10\t4\t881250949\n1\t10\tx\t881250949\n", 2, "rating 'x' is not a number"),
        ("movielens", "u.data", "1\t10\t4\t881250949\n1\t10\t4\n", 2, "has 3 cells instead of 4"),
        ("movielens", "u.data", "1\t10\tnan\t881250949\n", 1, "rating 'nan' is not a number"),
        ("movielens", "u.data", "1\t10\t4\t1e18\n", 1, "time '1e18' is not a time in seconds since 1970"),
        ("movielens", "u.data", "\t10\t4\t881250949\n", 1, "user is empty"),
        ("movielens", "u.data", f"{'9' * 129}\t10\t4\t881250949\n", 1, "user is longer than 128 characters"),
        ("csv", "events.csv", "item_id,event_type,user_id\ni,view,u\n", 2, "lacks event_time"),
        ("csv", "events.csv", "item_id,event_type,event_time\ni,view,1\n", 2, "lacks both user_id and session_id"),
        ("csv", "events.csv", "item_id,event_type,user_id,event_time\ni,v,u,soon\n", 2, "event_time 'soon' is not"),
        ("csv", "events.csv", "user_id\nu\n", 1, "the header lacks the column 'item_id'"),
        ("csv", "events.csv", "", 1, "the header lacks the column 'item_id'"),
        ("csv", "events.csv", "item_id,item_id\n", 1, "the header names a column twice"),
        ("csv", "events.csv", 'item_id,user_id,event_type\n"a\nb",u,v\n', 3, "item_id holds control characters"),
        ("csv", "events.csv", "item_id,n:number\ni,many\n", 2, "n:number 'many' is not a number"),
        ("csv", "events.csv", "item_id,n:int\ni,1\n", 2, "names none of the types"),
        ("jsonl", "events.jsonl", '{"item_id": "i"\n', 1, "is not JSON"),
        ("jsonl", "events.jsonl", "\n[1]\n", 2, "is not a JSON object"),
        ("jsonl", "events.jsonl", '{"item": "i"}\n', 1, "unknown field 'item'"),
        ("jsonl", "events.jsonl", '{"item_id": 5}\n', 1, "lacks both user_id and session_id"),
        ("jsonl", "events.jsonl", '{"user_id": 5}\n', 1, "user_id must be a string"),
        ("jsonl", "events.jsonl", '{"value": NaN}\n', 1, "NaN is not allowed"),
    ],
)
def test_wrong_event_is_told_with_file_and_line(tmp_path: Path, name: str, file: str, text: str, line: int, what: str):
    if name == "movielens":
        ml_100k(tmp_path)
    (tmp_path / file).write_text(text)
    dataset = open_dataset(name, tmp_path)
    with pytest.raises(DatasetError) as caught:
        list(dataset.events())
    assert (caught.value.path, caught.value.line) == (tmp_path / file, line)
    assert what in caught.value.what
    assert str(caught.value).startswith(f"{tmp_path / file}, line {line}: ")


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"title": "x"}, "lacks item_id"),
        ({"item_id": "i", "tags": "a"}, "tags must be a list of non-empty strings"),
        ({"item_id": "i", "tags": [""]}, "tags must be a list of non-empty strings"),
        ({"item_id": "i", "available": "yes"}, "available must be true or false"),
        ({"item_id": "i", "embedding": [1, "2"]}, "embedding must be a finite number"),
        ({"item_id": "i", "embedding": [True]}, "embedding must be a finite number"),
        ({"item_id": "i", "attributes": []}, "attributes must be an object"),
        ({"item_id": "i", "publish_time": "2024-13-01"}, "publish_time '2024-13-01' is not an ISO 8601 time"),
    ],
)
def test_wrong_item_is_told(tmp_path: Path, record: dict[str, object], what: str):
    (tmp_path / "items.jsonl").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="line 1") as caught:
        list(open_dataset("jsonl", tmp_path).items())
    assert caught.value.what == what


def test_wrong_bytes_are_told_with_their_line(tmp_path: Path):
    (tmp_path / "items.csv").write_bytes(b"\xef\xbb\xbfitem_id,title\n1,good\n2,b\xe9b\xe9\n")
    items = open_dataset("csv", tmp_path).items()
    assert next(items).item_id == "1"
    with pytest.raises(DatasetError, match=r"line 3: holds bytes that are not utf-8"):
        next(items)


def test_damaged_gzip_file_is_told(tmp_path: Path):
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress(b"item_id\n" + b"1\n" * 10_000)[:-12])
    with pytest.raises(DatasetError, match="cannot be read"):
        open_dataset("csv", tmp_path)


def test_unknown_event_type_of_deskdrop_is_told(tmp_path: Path):
    (tmp_path / "users_interactions.csv").write_text(
        "timestamp,eventType,contentId,personId,sessionId\n1,STARE,1,1,1\n"
    )
    with pytest.raises(DatasetError, match="line 2: eventType 'STARE' is none of VIEW"):
        list(open_dataset("deskdrop", tmp_path).events())


def test_missing_path_and_unknown_format_are_told(tmp_path: Path):
    for name in FORMATS:
        with pytest.raises(DatasetError):
            open_dataset(name, tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="'parquet' is none of the formats csv, deskdrop"):
        open_dataset("parquet", tmp_path)
    with pytest.raises(DatasetError, match="none can be chosen"):
        open_dataset("csv", tmp_path, "other.csv")


def test_event_ids_that_would_be_too_long_become_digests():
    assert event_id("ml", 1, 2) == "ml:1:2"
    long = event_id("ml", "x" * 128, "y" * 128)
    assert name_fault(long) is None
    assert long == event_id("ml", "x" * 128, "y" * 128)
    assert long != event_id("ml", "x" * 128, "z" * 128)


def test_generated_data_survives_being_written_and_read(tmp_path: Path):
    """What the generator makes is what the jsonl reader accepts: both speak the contract."""
    made = seed_dataset(20, 5, 10, 1, datetime(2026, 5, 1, tzinfo=UTC))
    lines = []
    for event in made.events():
        record = {"event_id": event.event_id, "event_type": event.event_type, "user_id": event.user_id}
        record |= {"session_id": event.session_id, "item_id": event.item_id, "value": event.value}
        record |= {"event_time": event.event_time.isoformat(), "context": event.context}
        lines.append(json.dumps(record))
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    assert list(open_dataset("jsonl", tmp_path).events()) == list(made.events())


# The real sets


def test_real_ml_100k_is_complete():
    assert counts(open_dataset("movielens", real("ml-100k"))) == (943, 1682, 100_000)


def test_real_ml_100k_split_has_ten_test_ratings_a_user():
    events = Counter(event.user_id for event in open_dataset("movielens", real("ml-100k"), "ua.test").events())
    assert len(events) == 943
    assert set(events.values()) == {10}


def test_real_ml_latest_small_is_complete():
    dataset = open_dataset("movielens", real("ml-latest-small"))
    # The catalogue has 59 films more than the 9,066 that somebody rated.
    assert counts(dataset) == (671, 9066 + 59, 100_004)
    assert len({event.item_id for event in dataset.events()}) == 9066


def test_real_goodbooks_is_complete():
    assert counts(open_dataset("goodbooks", real("goodbooks-10k"))) == (53_424, 10_000, 981_756 - 2_278)


@pytest.mark.parametrize(("split", "number"), [("train.txt", 810_128), ("test.txt", 217_242)])
def test_real_gowalla_is_complete(split: str, number: int):
    assert counts(open_dataset("lightgcn", real("gowalla"), split)) == (29_858, 40_981, number)


def test_real_online_retail_is_complete():
    # Of 541,909 lines 397,924 have a customer and are no returns, and 1,550 of these are charges.
    assert counts(open_dataset("online-retail", real("online-retail"))) == (4_372, 4_070, 397_924 - 1_550)


def test_real_deskdrop_is_complete():
    assert counts(open_dataset("deskdrop", real("deskdrop"))) == (1_895, 2_987, 72_312)
