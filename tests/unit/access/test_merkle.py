"""The hash tree under the audit log, against RFC 6962 §2.1 and the published test vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.access import merkle

# The entries and roots that Certificate Transparency implementations test with.
ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES = range(1, 65)
HASHES = [merkle.leaf_hash(bytes([number])) for number in range(64)]


def mth(hashes: list[bytes]) -> bytes:
    """RFC 6962 §2.1 to the letter, for leaf hashes."""
    if len(hashes) < 2:
        return hashes[0] if hashes else merkle.EMPTY_ROOT
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return merkle.node_hash(mth(hashes[:k]), mth(hashes[k:]))


@pytest.mark.parametrize("size", range(9))
def test_known_roots(size: int) -> None:
    """RFC 6962 §2.1: roots of 0 to 8 known entries; of none it is SHA-256 of nothing."""
    assert merkle.root(merkle.leaf_hash(entry) for entry in ENTRIES[:size]).hex() == ROOTS[size]


def test_leaves_and_nodes_are_hashed_apart() -> None:
    """RFC 6962 §2.1: the domain separation that keeps a node from passing as a leaf."""
    left, right = HASHES[:2]
    assert merkle.node_hash(left, right) != merkle.leaf_hash(left + right)


@pytest.mark.parametrize("size", SIZES)
def test_appending_gives_the_root_of_the_definition(size: int) -> None:
    """RFC 6962 §2.1: the frontier, kept or read back, agrees with the recursive definition."""
    frontier = merkle.Frontier()
    for leaf in HASHES[:size]:
        frontier = merkle.Frontier.from_bytes(frontier.size, frontier.to_bytes()).append(leaf)
    assert frontier.root() == mth(HASHES[:size])


@pytest.mark.parametrize("size", SIZES)
def test_every_inclusion_proof_verifies(size: int) -> None:
    """RFC 6962 §2.1.1, for each leaf of each size; not for a neighbour, nor with any step changed."""
    hashes, root = HASHES[:size], mth(HASHES[:size])
    for index, leaf in enumerate(hashes):
        proof = merkle.inclusion_proof(hashes, index)
        assert merkle.verify_inclusion(leaf, index, size, proof, root)
        assert not merkle.verify_inclusion(HASHES[index - 1], index, size, proof, root) or size == 1
        assert not merkle.verify_inclusion(leaf, index, size, [*proof, leaf], root)
        for step in range(len(proof)):
            forged = [*proof[:step], b"\0" * 32, *proof[step + 1 :]]
            assert not merkle.verify_inclusion(leaf, index, size, forged, root)


@pytest.mark.parametrize("size", SIZES)
def test_every_consistency_proof_verifies(size: int) -> None:
    """RFC 6962 §2.1.2, between each pair of sizes; not for another old root, nor with a step dropped."""
    hashes, root = HASHES[:size], mth(HASHES[:size])
    for old_size in range(1, size + 1):
        old_root = mth(HASHES[:old_size])
        proof = merkle.consistency_proof(hashes, old_size)
        assert merkle.verify_consistency(old_size, size, old_root, root, proof)
        assert not merkle.verify_consistency(old_size, size, HASHES[63], root, proof) or size == 64
        if proof:
            assert not merkle.verify_consistency(old_size, size, old_root, root, proof[:-1])


def test_the_empty_log_is_a_prefix_of_every_log() -> None:
    """RFC 9162 §2.1.4: from size 0 there is nothing to prove, but the old root must be the empty one."""
    assert merkle.verify_consistency(0, 5, merkle.EMPTY_ROOT, mth(HASHES[:5]), [])
    assert not merkle.verify_consistency(0, 5, HASHES[0], mth(HASHES[:5]), [])
    assert not merkle.verify_consistency(6, 5, mth(HASHES[:6]), mth(HASHES[:5]), [])


@pytest.mark.parametrize(("size", "length"), [(1, 0), (1, 64), (3, 32), (-1, 0), (2, 31)])
def test_a_frontier_of_another_size_is_refused(size: int, length: int) -> None:
    """What is read back from a file is checked before it is built on."""
    with pytest.raises(ValueError, match="frontier"):
        merkle.Frontier.from_bytes(size, b"\0" * length)


@pytest.mark.parametrize("index", [-1, 3])
def test_no_proof_of_what_is_not_there(index: int) -> None:
    """Asking beyond the log is a mistake, not an empty proof."""
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(HASHES[:3], index)
    with pytest.raises(ValueError, match="no tree"):
        merkle.consistency_proof(HASHES[:3], 4)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=80), st.data())
def test_another_leaf_anywhere_gives_another_root(entries: list[bytes], data: st.DataObject) -> None:
    """Mission: a tampered log fails. One changed entry changes the root."""
    index = data.draw(st.integers(0, len(entries) - 1))
    changed = data.draw(st.binary(max_size=40).filter(lambda entry: entry != entries[index]))
    other = [*entries[:index], changed, *entries[index + 1 :]]
    assert merkle.root(map(merkle.leaf_hash, entries)) != merkle.root(map(merkle.leaf_hash, other))
