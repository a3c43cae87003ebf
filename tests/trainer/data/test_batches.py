from __future__ import annotations

import collections
import itertools
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import tensorflow as tf

from trainer.data import batches


def _plan(num_examples: int, batch_size: int, *, fixed: int | None = None, wrap: bool = True):
    return batches.EpochPlan(num_examples, batch_size, fixed, wrap)


def _positions(plan: batches.EpochPlan, epoch: int) -> list[tuple[int, int]]:
    return [(index, i) for index, start, stop in plan.ranges(epoch) for i in range(start, stop)]


sizes = st.integers(1, 200)
ORDER = [5, 0, 8, 4, 3, 2, 1, 9, 6, 7]


@hypothesis.given(sizes, sizes, st.integers(0, 5))
@hypothesis.settings(deadline=None)
def test_an_epoch_with_wrap_has_every_sample_and_only_full_batches(n, batch_size, epoch):
    plan = _plan(n, batch_size)
    positions = _positions(plan, epoch)
    assert len(positions) == plan.steps * batch_size
    assert {i for _, i in positions} == set(range(n))
    assert {index for index, _ in positions} == {epoch}
    assert len(positions) < n + batch_size


@hypothesis.given(sizes, sizes)
@hypothesis.settings(deadline=None)
def test_an_epoch_with_drop_has_no_sample_twice(n, batch_size):
    positions = _positions(_plan(n, batch_size, wrap=False), epoch=0)
    assert len(positions) == n // batch_size * batch_size
    assert len(set(positions)) == len(positions)


@hypothesis.given(sizes, sizes, st.integers(1, 20))
@hypothesis.settings(deadline=None)
def test_epochs_of_fixed_steps_use_all_samples_in_turn(n, batch_size, steps):
    plan = _plan(n, batch_size, fixed=steps)
    epochs = -(-n // (steps * batch_size))
    seen = [position for epoch in range(epochs) for position in _positions(plan, epoch)]
    assert len(seen) == epochs * steps * batch_size
    assert len(set(seen)) == len(seen)
    first_pass = collections.Counter(i for index, i in seen if index == 0)
    assert first_pass == collections.Counter(range(n))


@hypothesis.given(sizes, sizes, st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 3))
@hypothesis.settings(deadline=None)
def test_every_use_of_an_example_in_an_epoch_has_its_own_draw(n, batch_size, fixed, epoch):
    plan = _plan(n, batch_size, fixed=fixed)
    rows, draws = plan.rows(epoch, seed=3), plan.draws(epoch)
    assert rows.shape == draws.shape == (plan.steps * batch_size,)
    assert len(set(zip(rows.tolist(), draws.tolist(), strict=True))) == len(rows)
    assert draws[0] == 0


@hypothesis.given(sizes, st.integers(0, 5), st.integers(0, 5))
@hypothesis.settings(deadline=None)
def test_an_epoch_is_a_permutation_of_the_whole_split(n, epoch, seed):
    rows = _plan(n, 1).rows(epoch, seed)
    assert sorted(rows.tolist()) == list(range(n))


def test_a_permutation_mixes_near_and_far():
    """A window would leave a row within its reach: of 100,000, none moves by less than expected."""
    n = 100_000
    moved = np.abs(_plan(n, 1).rows(0, 0) - np.arange(n))
    assert abs(moved.mean() / n - 1 / 3) < 0.01
    assert abs(np.median(moved) / n - (1 - 0.5**0.5)) < 0.01


def test_the_order_is_the_same_with_every_release_of_numpy():
    """A resumed run continues in it."""
    assert _plan(10, 1).rows(0, 0).tolist() == ORDER
    assert batches.stable_seed(0, 1) == batches.stable_seed(0, 1, 0)


def test_the_order_of_ten_million_examples_takes_little_memory():
    tracemalloc.start()
    try:
        rows = _plan(10_000_000, 32).rows(0, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == 10_000_000
    assert peak < 13 * len(rows)  # Bytes.


@hypothesis.given(sizes, st.integers(1, 6), st.integers(1, 4), st.integers(0, 300))
@hypothesis.settings(deadline=None)
def test_shares_of_hosts_are_the_batches_from_any_step(n, width, hosts, first_step):
    batch_size = width * hosts
    first_step = min(first_step, -(-n // batch_size))
    shares = [
        batches.share_of(np.arange(n), batch_size, batches.Share(host, hosts, hosts, first_step))
        for host in range(hosts)
    ]
    joined = itertools.chain.from_iterable(
        share[i : i + width] for i in range(0, n, width) for share in shares
    )
    assert list(joined) == list(range(first_step * batch_size, n))


@hypothesis.given(sizes, sizes)
@hypothesis.settings(deadline=None, max_examples=30)
def test_padding_keeps_every_example_once_in_order(n, batch_size):
    weighted = tf.data.Dataset.range(n).map(lambda i: (i, i, 1.0))
    padded = batches.pad(weighted, batch_size, n)
    rows = list(padded.dataset.as_numpy_iterator())
    assert len(rows) == padded.steps
    assert {len(x) for x, _, _ in rows} == {batch_size}
    x, weight = (np.concatenate([row[i] for row in rows]) for i in (0, 2))
    assert x[weight > 0].tolist() == list(range(n))


def test_seeds_of_neighbouring_numbers_differ():
    seeds = {batches.stable_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900


@hypothesis.given(sizes, st.integers(1, 4), st.sampled_from([1, 2, 3]), st.integers(1, 3))
@hypothesis.settings(deadline=None, max_examples=12)
def test_hosts_shares_are_the_global_batches_and_each_row_is_loaded_once(n, width, hosts, replicas):
    """Each host has `replicas` replicas, each of which takes `width` examples of a batch."""
    batch_size = width * hosts * replicas
    loaded: list[int] = []

    def load(row):
        tf.numpy_function(lambda i: loaded.append(int(i)), [row], [], stateful=True)
        return row, row, 1.0

    whole = batches.pad(tf.data.Dataset.range(n).map(lambda i: (i, i, 1.0)), batch_size, n)
    shared = batches.load(
        [np.arange(n)],
        batch_size,
        lambda rows: batches.parallel(tf.data.Dataset.from_tensor_slices(rows), load),
    )
    shares = [
        list(shared.read(batches.Share(host, hosts, hosts * replicas)).as_numpy_iterator())
        for host in range(hosts)
    ]
    for step, batch in enumerate(whole.dataset.as_numpy_iterator()):
        pieces = [mine[step * replicas + r] for mine in shares for r in range(replicas)]
        for column in (0, 2):
            joined = np.concatenate([piece[column] for piece in pieces])
            np.testing.assert_array_equal(joined, batch[column])
    assert sorted(loaded) == list(range(n))
