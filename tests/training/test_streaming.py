"""Training on files of which a part is read at a time, which may not show in what is trained."""

from __future__ import annotations

import multiprocessing

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import setflow
from cli.shell import write_jets
from each import each
from setflow.data import Standardizer
from setflow.training import SetDataModule, sources, statistics, streaming
from setflow.training.streaming import EpochShares, Side

JETS = 500


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three files in chunks of 16 rows, two jets to an event, with weights, some negative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "BLOCK_BYTES", 20 * 8 * 4 * 4)
    monkeypatch.setattr(streaming, "WINDOW", 4)
    first = 0
    for name, jets in (("a.h5", JETS - 120), ("b.h5", 77), ("c.h5", 43)):
        write_jets(tmp_path / "plain.h5", jets=jets, slots=8, seed=jets)
        with h5py.File(tmp_path / "plain.h5") as plain, h5py.File(tmp_path / name, "w") as file:
            for key in plain:
                file.create_dataset(key, data=plain[key][:], chunks=(16, *plain[key].shape[1:]))
            rows = first + np.arange(jets)
            file["jet_features"][:, 1] = rows / 100  # of which each jet is known again
            file["event_number"] = rows // 2
            file["weight"] = np.where(rows % 7 == 0, -0.5, 1.0 + rows % 3)
        first += jets
    return tmp_path


FILES = ["a.h5", "b.h5", "c.h5"]


def module(**options):
    given = {"conditions": ["eta", "mass"], "max_objects": 6, "batch_size": 32, "weight": "weight"}
    given |= {"in_memory": False, "val_fraction": 0.2, "seed": 3, **options}
    data = SetDataModule(given.pop("train", FILES), given.pop("val", None), **given)
    data.setup("fit")
    return data


def jets_of(batch):
    return (batch.events.c[:, 0] * 100).round().long()


def epoch_of(data, epoch=0, *, skip=0, rank=0, processes=1, **options):
    loader = data.train_dataloader()
    sampler = EpochShares(len(loader.dataset), data.batch_size, rank=rank, processes=processes)
    sampler.set_epoch(epoch)
    sampler.skip(skip)
    return list(DataLoader(loader.dataset, sampler=sampler, batch_size=None, **options))


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.place, other.place)
        assert torch.equal(one.events.x, other.events.x)
        assert torch.equal(one.events.c, other.events.c)
        assert torch.equal(one.events.weight, other.events.weight)


def test_every_event_comes_once_an_epoch_on_one_side(folder):
    data = module()
    train = torch.cat([jets_of(batch) for batch in epoch_of(data)])
    held = torch.cat([jets_of(batch) for batch in data.val_dataloader()])
    assert torch.equal(torch.cat([train, held]).sort().values, torch.arange(JETS))
    assert not set((train // 2).tolist()) & set((held // 2).tolist()), "one event, one side"
    assert len(held) == pytest.approx(0.2 * JETS, rel=0.3)
    assert torch.equal(held, held.sort().values), "validation is not shuffled"
    places = torch.cat([batch.place for batch in epoch_of(data)])
    assert torch.equal(places.sort().values, torch.arange(len(train)))
    assert torch.equal(train[places.argsort()], train.sort().values), "places are those of files"


def test_values_are_those_of_the_files(folder):
    data = module()
    everything = module(in_memory=True, val_fraction=0.01)
    expected = {
        int(k): (x[mask], c, w)
        for x, mask, c, w, k in (
            (side.x[i], side.mask[i], side.c[i], side.weight[i], (side.c[i, 0] * 100).round())
            for side in (everything._train, everything._val)
            for i in range(len(side))
        )
    }
    train = torch.cat([batch.events.weight for batch in epoch_of(data)])
    assert float(train.mean()) == pytest.approx(1, abs=1e-12)
    ratios = []
    for batch in [*epoch_of(data), *data.val_dataloader()]:
        for i, k in enumerate(jets_of(batch).tolist()):
            x, c, weight = expected[k]
            assert torch.equal(batch.events.x[i][batch.events.mask[i]], x)
            assert torch.equal(batch.events.c[i], c)
            ratios.append(float(batch.events.weight[i] / weight))
    assert max(ratios) - min(ratios) < 1e-9


def test_the_order_is_a_function_of_seed_and_epoch_alone(folder):
    first = epoch_of(module(), 2)
    assert_same(epoch_of(module(), 2), first)
    jets = torch.cat([jets_of(batch) for batch in first])
    for other in (epoch_of(module(), 3), epoch_of(module(seed=4), 2)):
        assert not torch.equal(torch.cat([jets_of(batch) for batch in other])[:100], jets[:100])
    smaller = torch.cat([jets_of(batch) for batch in epoch_of(module(batch_size=7), 2)])
    assert torch.equal(smaller, jets), "whatever the size of a batch"
    assert int(jets[:32].max() - jets[:32].min()) > JETS // 4, "a batch comes from all over"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing(folder, method, workers):
    data = module()
    data.train_dataloader().dataset[streaming.Share(0, 0, 5)]  # the files are open here, too
    context = multiprocessing.get_context(method)
    found = epoch_of(data, 1, num_workers=workers, multiprocessing_context=context)
    assert_same(found, epoch_of(data, 1))


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_the_same_sequence_without_overlap(folder, processes):
    data = module(batch_size=48)
    alone = torch.cat([jets_of(batch) for batch in epoch_of(module(batch_size=48))])
    ranks = [epoch_of(data, rank=rank, processes=processes) for rank in range(processes)]
    assert len({len(batches) for batches in ranks}) == 1, "all take as many steps"
    steps = [torch.cat([jets_of(part) for part in parts]) for parts in zip(*ranks, strict=True)]
    assert torch.equal(torch.cat(steps), alone)
    assert all(
        torch.equal(step, alone[48 * k : 48 * k + len(step)]) for k, step in enumerate(steps)
    )


@each("n", [3, 5, 7, 8, 9, 31, 32, 33, 100])
@each("processes", [1, 2, 4, 5])
def test_shares_cover_an_epoch(n, processes):
    found = [list(EpochShares(n, 4, rank=k, processes=processes)) for k in range(processes)]
    assert {len(shares) for shares in found} == {-(-n // 4)}, "as many steps whoever shares them"
    assert all(share.start < share.stop for shares in found for share in shares)
    taken = sorted((s.start, s.stop) for shares in found for s in shares if not s.idle)
    assert [start for start, _ in taken] == [0, *(stop for _, stop in taken[:-1])]
    assert taken[-1][1] == n
    for step in zip(*found, strict=True):
        size = sum(share.stop - share.start for share in step if not share.idle)
        assert {share.of for share in step} == {None if processes == 1 else size}


@pytest.mark.parametrize("step", [1, 5, 11])
def test_it_goes_on_from_epoch_and_step(folder, step):
    assert_same(epoch_of(module(), 4, skip=step), epoch_of(module(), 4)[step:])


def test_going_on_reads_nothing_of_what_came_before(folder, monkeypatch):
    data, read = module(), []
    whole = sources.EventFiles.read
    data.train_dataloader()

    def noted(self, block):
        read.append(block)
        return whole(self, block)

    monkeypatch.setattr(sources.EventFiles, "read", noted)
    batches = epoch_of(data, skip=len(data.train_dataloader()) - 1)
    assert len(batches) == 1
    assert len([block for block in read if block.stop > block.start]) <= 2 * 4


def test_what_was_read_may_be_kept(folder, monkeypatch):
    expected = epoch_of(module(), 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = module()
    loader = data.train_dataloader()
    assert loader.dataset._kept is not None
    list(loader)
    (folder / "a.h5").unlink()
    loader.sampler.set_epoch(1)
    assert_same(list(loader), expected)


# --- statistics ---


def flow_of(**options):
    field = setflow.TransformerField(3, hidden=8, layers=1, heads=1, condition_dim=2)
    options = {"scaler": Standardizer(kinds=["real", "real", "positive(boxcox=0.3)"]), **options}
    return setflow.SetFlow(field, conditions=["eta", "mass"], **options)


@pytest.mark.parametrize("weight", [None, "weight"])
@pytest.mark.parametrize("cardinality", [setflow.EmpiricalCardinality, "conditional"])
def test_statistics_are_those_of_the_events_in_memory(folder, weight, cardinality):
    if weight is None:
        for name in FILES:
            with h5py.File(name, "r+") as file:
                del file["weight"]

    def made():
        number = (
            setflow.ConditionalCardinality(8, 2) if cardinality == "conditional" else cardinality(8)
        )
        torch.manual_seed(0)
        return flow_of(cardinality=number)

    data = module(weight=weight)
    batches = [batch.events for batch in epoch_of(data)]
    inside = sources.together(batches)
    expected = made().fit_statistics(inside).state_dict()
    for _ in range(2):  # found, and from the cache
        found = module(weight=weight).fit_statistics(made()).state_dict()
        for name in expected:
            statistic = not name.startswith(("field.", "cardinality.net"))
            if statistic:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)
    lengths = module(weight=weight).training_sample(made()).lengths
    assert lengths.tolist() == inside.lengths.unique().tolist()


def test_statistics_are_kept_by_what_the_files_hold(folder, monkeypatch):
    passes = []
    ordinary = statistics._pass
    monkeypatch.setattr(
        statistics, "_pass", lambda *arguments: (passes.append(1), ordinary(*arguments))[1]
    )

    def times(**options):
        passes.clear()
        data = module(**options)
        mean = data.fit_statistics(flow_of()).scaler.mean.clone()
        return len(passes), mean

    assert times()[0] == 1
    assert times()[0] == 0
    (folder / "a.h5").rename(folder / "moved.h5")
    assert times(train=["moved.h5", "b.h5", "c.h5"])[0] == 0, "whatever it is called"
    (folder / "moved.h5").rename(folder / "a.h5")
    others = {"seed": 9}, {"val_fraction": 0.3}, {"max_objects": 5}, {"select": "mass > 50"}
    for options in (*others, {"train": FILES[:2]}, {"train": [*FILES[:2], "c.h5[0:30]"]}):
        assert times(**options)[0] == 1, options
        assert times(**options)[0] == 0, options
    before = times()[1]
    with h5py.File("a.h5", "r+") as file:
        file["particle_features"][5, 0, 0] += 1.0
    count, after = times()
    assert count == 1
    assert not torch.equal(before, after)


@pytest.mark.parametrize("how", ["cut", "empty", "rubbish", "flipped"])
def test_a_damaged_entry_is_made_again(folder, how):
    expected = module().fit_statistics(flow_of()).scaler.mean.clone()
    (entry,) = statistics.cache_folder().glob("*.npz")
    whole = entry.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 255
    spoilt = {"cut": whole[:-40], "empty": b"", "rubbish": b"x" * 999, "flipped": bytes(middle)}
    entry.write_bytes(spoilt[how])
    assert torch.equal(module().fit_statistics(flow_of()).scaler.mean, expected)
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(folder, monkeypatch):
    (folder / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "a file"))
    assert module().fit_statistics(flow_of()).scaler.is_fitted


def test_a_file_that_changes_is_refused(folder):
    data = module(select="mass > 20")
    loader = data.train_dataloader()
    for reader in loader.dataset._files._readers:
        reader.close()
    with h5py.File("a.h5", "r+") as file:
        file["jet_features"][:200, 2] = 10.0
    with pytest.raises(ValueError, match=r"a.h5: of rows .* the file was changed"):
        list(loader)


def test_events_that_are_not_in_memory_say_how_to_get_on(folder):
    with pytest.raises(ValueError, match=r"data.fit_statistics\(flow\).*in_memory=True"):
        _ = module().train_events


def test_weights_without_a_positive_sum_are_refused(folder):
    for name in FILES:
        with h5py.File(name, "r+") as file:
            file["weight"][:] = -1.0
    with pytest.raises(ValueError, match=r"validation events: their weights sum to .* negative"):
        module().train_dataloader()


# --- which rows ---


@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_folders_and_selections(folder, in_memory):
    (folder / "in").mkdir()
    for name in FILES:
        (folder / name).rename(folder / "in" / name)

    def taken(**options):
        data = module(in_memory=in_memory, **options)
        loaders = (data.train_dataloader(), data.val_dataloader())
        jets = [jets_of(batch) for loader in loaders for batch in loader]
        return torch.cat(jets).sort().values.tolist()

    assert taken(train="in") == list(range(JETS))
    assert taken(train=["in/a.h5[10:200]", "in/a.h5[300:]"]) == [
        *range(10, 200),
        *range(300, JETS - 120),
    ]
    assert taken(train="in", select="1 <= eta and eta * 2 < 6") == list(range(100, 300))
    assert taken(train="in/a.h5[:100]", val="in/a.h5[100:150]") == list(range(150))
    with pytest.raises(ValueError, match=r"a.h5 is the training file"):
        taken(train="in/a.h5[:100]", val="in/a.h5[99:150]")
    with pytest.raises(ValueError, match=r"in/a.h5\[99:150\] twice|in/a.h5 twice"):
        taken(train=["in/a.h5[:100]", "in/a.h5[99:150]"])
    with pytest.raises(ValueError, match="holds 380 events, rows 0 to 999 were asked for"):
        taken(train="in/a.h5[:999]")
    with pytest.raises(ValueError, match=r"sample is empty.*selected by 'eta > 99'|holds no"):
        taken(train="in", select="eta > 99")
    with pytest.raises(ValueError, match="no column 'etta'"):
        taken(train="in", select="etta > 1")


def test_a_side_holds_both_jets_of_an_event():
    numbers = torch.arange(1000).repeat_interleave(2)
    held = Side(0, 0.1, True)(numbers)
    assert torch.equal(held[::2], held[1::2])
    assert torch.equal(Side(0, 0.1, False)(numbers), ~held)
    assert 0.06 < float(held.double().mean()) < 0.14


def test_of_many_files_few_are_open(folder, monkeypatch):
    monkeypatch.setattr(sources, "_OPEN", 2)
    for k in range(9):
        write_jets(folder / f"{k}.h5", jets=20, slots=8, seed=k)
    data = SetDataModule("[0-8].h5", conditions=["eta"], batch_size=16, in_memory=False)
    data.setup("fit")
    loader = data.train_dataloader()
    assert sum(len(batch.place) for batch in loader) == len(loader.dataset)
    there = loader.dataset._files._readers
    assert sum(reader._open._file is not None for reader in there) <= 2
