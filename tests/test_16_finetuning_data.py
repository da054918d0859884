"""The corpus as numbers: what is refused, what the file holds, and batches that neither repeat nor leave out, resumed or not."""

import gzip
import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import TrainingError
from minillm.training.data import HEADER, Batches, held_out_batches, open_tokens, read_corpus, split, write_tokens


def refused(what, *args):
    with pytest.raises(TrainingError) as error:
        what(*args)
    return str(error.value)


# --- text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "pack"), [(".txt", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_corpus_is_read_plain_or_packed(tmp_path, suffix, pack):
    (path := tmp_path / f"a{suffix}").write_bytes(pack("\ufeffEin Käfer.\r\n".encode()))
    assert read_corpus(path) == "Ein Käfer.\n"


def test_a_corpus_that_cannot_be_learnt_from_is_refused_with_both_numbers(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    assert "at least 1 character" in (said := refused(read_corpus, path)) and "found 0 in 0 bytes" in said
    path.write_bytes(b" \n\t\n")
    assert "found 0 in 4 bytes" in refused(read_corpus, path)
    path.write_bytes("Käfer".encode("latin-1"))
    assert "byte 1 of 5 is 0xe4" in refused(read_corpus, path)
    path.write_bytes(b"\xef\xbb\xbfab\xff")
    assert "byte 5 of 6 is 0xff" in refused(read_corpus, path)
    assert "cannot be read" in refused(read_corpus, tmp_path / "none.txt")
    assert "cannot be read" in refused(read_corpus, tmp_path)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_packed_corpus_cut_short_or_no_pack_at_all_is_refused(tmp_path, suffix, pack):
    path, whole = tmp_path / f"a{suffix}", pack(b"once upon a time " * 99)
    for data in (whole[:-9], whole[:20], b"plain text", whole[:30] + bytes(10) + whole[40:]):
        path.write_bytes(data)
        assert "cannot be read" in refused(read_corpus, path)


def test_equal_documents_never_stand_on_both_sides_and_a_longer_corpus_moves_none():
    documents = [f"story {i % 300}" for i in range(900)]
    learn, judge = split("|".join(documents) + "| |\n|", "|", 0.2)
    assert sorted(learn + judge) == sorted(documents) and not set(learn) & set(judge)
    assert 30 <= len(set(judge)) <= 90  # of 300 at 0.2: 60 ± 4 standard deviations
    more, judge_more = split("|".join([*documents, *(f"new {i}" for i in range(99))]), "|", 0.2)
    assert set(learn) <= set(more) and set(judge) <= set(judge_more)
    assert split("a|b", "|", 0.0) == (["a", "b"], [])


# --- the file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocabulary", "width"), [(2, 2), (2**16, 2), (2**16 + 1, 4), (2**20, 4)])
def test_ids_come_back_mapped_and_as_narrow_as_they_can_be(tmp_path, vocabulary, width):
    documents = [[0, vocabulary - 1], [], [1] * 5]
    file = write_tokens(tmp_path / "t", documents, vocabulary)
    assert file.ids.tolist() == [0, vocabulary - 1, 1, 1, 1, 1, 1] and file.vocab_size == vocabulary
    assert isinstance(file.ids, np.memmap) and file.ids.dtype.itemsize == width and not file.ids.flags.writeable
    assert (tmp_path / "t").stat().st_size == HEADER.size + 7 * width
    assert write_tokens(tmp_path / "u", [], 9).ids.size == 0


@pytest.mark.parametrize("wrong", [-1, 10, 2**16 + 3])
def test_an_id_outside_the_vocabulary_leaves_the_old_file(tmp_path, wrong):
    old = write_tokens(tmp_path / "t", [[1, 2]], 10).sha256
    assert f"{wrong:,} is outside the vocabulary of 10" in refused(write_tokens, tmp_path / "t", [[3], [4, wrong]], 10)
    assert open_tokens(tmp_path / "t").sha256 == old and [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_file_whose_header_and_bytes_disagree_is_refused(tmp_path):
    path = tmp_path / "t"
    write_tokens(path, [range(100)], 300)
    good = path.read_bytes()
    for data, said in (
        (b"", "found 0"),
        (good[:63], "found 63"),
        (b"GGUF" + good[4:], "expected b'minillmT'"),
        (good[:8] + b"\x02" + good[9:], "version 2"),
        (good[:12] + b"\x03" + good[13:], "3 bytes"),
        (good[:-1], "264 bytes in all; the file has 263"),
        (good + b"\0", "the file has 265"),
        (good[:100] + bytes([good[100] ^ 1]) + good[101:], "sha256"),
    ):
        path.write_bytes(data)
        assert said in refused(open_tokens, path)
    assert "cannot be read" in refused(open_tokens, tmp_path / "none")


# --- batches --------------------------------------------------------------------------------------------------------------


sizes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 60), st.integers(0, 2**40))


def starts(batches, count):  # -> [where a window starts]; ids are places, so the window itself says it
    return [int(row[0]) for _ in range(count) for row in batches.draw()[0]]


def places(size, batch=None):
    b, length, more, seed = size
    return Batches(np.arange(b * length + 1 + more, dtype=np.uint16), batch or b, length, seed)


@given(sizes)
def test_an_epoch_shows_every_window_once_and_the_target_is_the_next_token(size):
    batch, length, more, _ = size
    batches, count, epochs = places(size, batch=1), batch * length + 1 + more, {}
    while batches.state["epoch"] < 3:
        tokens, targets = batches.draw()
        assert tokens.shape == targets.shape == (1, length) and tokens.dtype == targets.dtype == np.int64
        assert (targets == tokens + 1).all() and (np.diff(tokens) == 1).all() and targets.max() < count
        epochs.setdefault(batches.state["epoch"], []).append(int(tokens[0, 0]))
    for epoch in range(3):
        windows = sorted(epochs[epoch])
        assert windows == list(range(windows[0], windows[0] + length * len(windows), length)), "side by side, each once"
        assert windows[0] < length and windows[-1] + 2 * length >= count, "a window more would fit"


@given(sizes)
def test_a_batch_takes_the_next_windows_over_the_end_of_an_epoch_too(size):
    assert starts(places(size), 12) == starts(places(size, batch=1), 12 * size[0])


def test_each_epoch_and_each_seed_has_an_order_and_a_cut_of_its_own():
    size = (1, 4, 400, 7)
    per_epoch = 100
    stream = starts(places(size), 4 * per_epoch)
    epochs = [stream[i : i + 90] for i in range(0, 4 * per_epoch, per_epoch)]
    assert len({tuple(e) for e in epochs}) == 4 and all(e != sorted(e) for e in epochs)
    assert len({s % 4 for s in stream}) > 1, "every epoch cuts at the same places"
    assert starts(places((1, 4, 400, 8)), 90) != epochs[0]
    assert starts(places(size), 90) == epochs[0]


@given(sizes, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_taken_up_again_wherever_it_stood_it_neither_repeats_nor_skips(size, legs):
    whole, resumed, state = starts(places(size), sum(legs)), [], places(size).state
    for leg in legs:
        batches = places(size)
        batches.restore(state)
        resumed += starts(batches, leg)
        state = dict(batches.state)
    assert resumed == whole


begins_of = st.sets(st.integers(0, 200), min_size=1).map(lambda s: np.array(sorted(s)))


@given(begins_of, st.integers(1, 9), st.integers(210, 300), st.integers(0, 2**40))
def test_aligned_every_window_starts_where_a_document_does_and_none_twice_in_an_epoch(begins, length, count, seed):
    batches, seen = Batches(np.arange(count, dtype=np.uint16), 1, length, seed, begins=begins), {}
    while batches.state["epoch"] < 3:
        tokens, targets = batches.draw()
        assert (targets == tokens + 1).all() and tokens[0, 0] in begins
        seen.setdefault(batches.state["epoch"], []).append(int(tokens[0, 0]))
    for epoch in range(3):
        assert len(set(seen[epoch])) == len(seen[epoch])
    if np.diff(begins).min(initial=length) >= length:  # documents longer than a window: no two places lead past the same one
        assert all(set(seen[epoch]) >= set(begins[1:].tolist()) for epoch in range(3)), "a document is left out"


def test_aligned_every_document_has_its_turn_though_an_epoch_has_fewer_windows():
    begins = np.arange(0, 900, 5)
    batches = Batches(np.arange(1000, dtype=np.uint16), 1, 12, 3, begins=begins)
    first = {int(batches.draw()[0][0, 0]) for _ in range(82)}
    assert batches.state["epoch"] <= 1 and 60 < len(first) < len(begins)
    assert {int(batches.draw()[0][0, 0]) for _ in range(900)} == set(begins.tolist())


def test_aligned_windows_need_room_behind_where_documents_start():
    ids = np.arange(21, dtype=np.uint16)
    said = refused(Batches, ids, 3, 6, 0, "corpus.txt", np.array([0, 14, 15]))
    assert said == "corpus.txt: 3 windows are to start with a document each, found 2 with room."
    for seed in range(20):
        tokens, targets = Batches(ids, 2, 6, seed, begins=np.array([13, 14, 15])).draw()
        assert set(tokens[:, 0].tolist()) <= {13, 14} and targets.max() <= 20


def test_asking_for_the_state_changes_nothing():
    a, b = places((2, 3, 50, 1)), places((2, 3, 50, 1))
    for _ in range(40):
        _ = a.state, a.state
        np.testing.assert_array_equal(a.draw()[0], b.draw()[0])


@pytest.mark.parametrize(("batch", "length", "needed"), [(1, 1, 2), (4, 8, 33)])
def test_a_corpus_shorter_than_a_batch_is_refused_with_both_numbers(batch, length, needed):
    said = refused(Batches, np.zeros(needed - 1, np.uint16), batch, length, 0)
    assert f"are {needed}," in said and f"found {needed - 1}." in said
    tokens, _ = Batches(np.zeros(needed, np.uint16), batch, length, 0).draw()
    assert tokens.shape == (batch, length)


def test_held_out_windows_are_the_same_every_time_and_end_with_a_smaller_batch():
    got = held_out_batches(np.arange(31, dtype=np.uint16), 2, 4, most=9)
    assert [t.shape for t, _ in got] == [(2, 4)] * 3 + [(1, 4)]
    assert np.concatenate([t for t, _ in got]).ravel().tolist() == list(range(28))
    assert all((y == x + 1).all() for x, y in got)
    assert [t.shape for t, _ in held_out_batches(np.arange(31), 2, 4, most=1)] == [(2, 4)]
    assert len(held_out_batches(np.arange(5), 2, 4, most=1)) == 1 and held_out_batches(np.arange(4), 2, 4, most=1) == []
