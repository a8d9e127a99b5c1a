"""FeatureBank: a ring buffer held against a deque, its state, its scores and its ranks."""

import copy
import io
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fastuda.nn.feature_bank import FeatureBank


def batch(count: int, channels: int, seed: int) -> torch.Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))


def rows(features: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in features.tolist()]


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 9), counts=st.lists(st.integers(0, 25), max_size=12))
def test_against_a_deque(size, counts):
    bank, expected = FeatureBank(3, size), deque(maxlen=size)
    for seed, count in enumerate(counts):
        features = batch(count, 3, seed)
        bank.insert(features)
        expected.extend(rows(features))
        assert bank.filled == len(expected) and bank.features().shape == (bank.filled, 3)
        assert sorted(rows(bank.features())) == sorted(expected)


def test_the_oldest_rows_are_overwritten_in_place_and_nothing_moves():
    bank = FeatureBank(1, 5)
    where = bank.features_buffer.data_ptr()
    for value, expected in [
        ([0, 1, 2], [0, 1, 2]),
        ([3], [0, 1, 2, 3]),
        ([4, 5, 6], [5, 6, 2, 3, 4]),
        ([], [5, 6, 2, 3, 4]),
        (range(7, 19), [15, 16, 17, 18, 14]),
        ([19], [15, 16, 17, 18, 19]),
        ([20], [20, 16, 17, 18, 19]),
    ]:
        bank.insert(torch.tensor(list(value), dtype=torch.float32).view(-1, 1))
        assert bank.features().flatten().tolist() == list(expected)
        assert bank.features().data_ptr() == bank.features_buffer.data_ptr() == where


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_are_rounded_to_the_dtype_of_the_bank(dtype, given_dtype):
    bank, features = FeatureBank(4, 8, dtype=dtype), batch(11, 4, 0).to(given_dtype)
    bank.insert(features)
    assert bank.features().dtype == dtype
    assert sorted(rows(bank.features())) == sorted(rows(features[3:].to(dtype)))


@pytest.mark.parametrize("counts", [(3,), (3, 4), (3, 9), (10,), (25, 1)])
def test_a_loaded_bank_goes_on_where_the_saved_one_stopped(counts):
    bank = FeatureBank(3, 10)
    for seed, count in enumerate(counts):
        bank.insert(batch(count, 3, seed))
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    loaded = FeatureBank(3, 10)
    loaded.insert(batch(7, 3, 99))
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (loaded, copy.deepcopy(bank)):
        for seed, count in enumerate((0, 4, 8, 13), 50):
            both = [copy.deepcopy(bank), copy.deepcopy(other)]
            for one in both:
                one.insert(batch(count, 3, seed))
                one.insert(batch(2, 3, seed + 100))
            assert both[0].filled == both[1].filled
            assert torch.equal(both[0].features(), both[1].features())
    assert all(torch.equal(a, b) for a, b in zip(bank.state_dict().values(), loaded.state_dict().values(), strict=True))
    bank.reset()
    assert bank.filled == 0 and len(bank.features()) == 0 and len(loaded.features()) == min(10, sum(counts))


def test_a_state_that_no_bank_can_have_is_refused():
    bank = FeatureBank(3, 10)
    for cursor, filled in ((10, 10), (-1, 3), (2, 11), (2, 3), (4, 2)):
        with pytest.raises((ValueError, RuntimeError), match="cannot be cursor"):
            bank.load_state_dict(bank.state_dict() | {"_extra_state": torch.tensor([cursor, filled])})
    with pytest.raises(RuntimeError, match="_extra_state"):
        bank.load_state_dict({"features_buffer": torch.zeros(10, 3)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        bank.load_state_dict(FeatureBank(3, 11).state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scores_are_those_of_the_concatenated_rows(dtype):
    bank, weight = FeatureBank(6, 10, dtype=dtype), batch(4, 6, 7).requires_grad_()
    assert bank.scores(weight).shape == (0, 4)
    for count in (4, 9):
        bank.insert(batch(count, 6, count))
        for extra in (None, batch(0, 6, 8), batch(3, 6, 9), batch(6, 3, 9).T):
            found = bank.scores(weight, extra)
            together = bank.features() if extra is None else torch.cat([bank.features(), extra.to(dtype)])
            assert found.dtype == dtype and not found.requires_grad and found.is_contiguous()
            torch.testing.assert_close(found, together @ weight.detach().to(dtype).T)


class Largest(TorchDispatchMode):
    """The largest new tensor, in elements."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        known = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, torch.Tensor)]
        shared = {t.untyped_storage().data_ptr() for t in known}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in shared:
            self.elements = max(self.elements, out.numel())
        assert "_local_scalar_dense" not in str(function), "a number was read from a tensor: a GPU would wait"
        return out


def test_neither_copies_nor_waits():
    bank = FeatureBank(64, 100)
    with Largest() as seen:
        for _ in range(4):
            bank.insert(torch.zeros(40, 64))
            assert seen.elements <= 40 * 64
            bank.scores(torch.zeros(5, 64), torch.zeros(7, 64))
        assert seen.elements <= 40 * 64


def test_a_pending_gradient_is_neither_taken_nor_disturbed():
    bank, features = FeatureBank(3, 4), batch(3, 3, 0).requires_grad_()
    loss = (features * 2).square().sum()
    bank.insert(features * 2)
    assert not bank.features().requires_grad and not list(bank.parameters())
    bank.insert(torch.full((4, 3), torch.nan))
    assert bank.features().isnan().all()
    loss.backward()
    torch.testing.assert_close(features.grad, 8 * features.detach())


BAD = {
    r"features must be \(n, 3\)": lambda bank: bank.insert(torch.zeros(2, 4)),
    r"features must be \(n, 3\), got shape \(3,\)": lambda bank: bank.insert(torch.zeros(3)),
    "features must be float32": lambda bank: bank.insert(torch.zeros(2, 3, dtype=torch.int64)),
    "features are on meta but the bank is on cpu": lambda bank: bank.insert(torch.zeros(2, 3, device="meta")),
    r"weight must be \(n, 3\)": lambda bank: bank.scores(torch.zeros(5, 2)),
    r"extra must be \(n, 3\)": lambda bank: bank.scores(torch.zeros(5, 3), torch.zeros(1, 2)),
    "channels and size must be at least 1": lambda bank: FeatureBank(0),
    "channels and size must be at least 1, got 3 and 0": lambda bank: FeatureBank(3, 0),
    "dtype must be float32": lambda bank: FeatureBank(3, dtype=torch.int64),
}


@pytest.mark.parametrize("message, call", BAD.items())
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call(FeatureBank(3, 4))
