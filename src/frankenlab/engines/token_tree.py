"""The requests of one document as one tree of tokens, in which no token is computed twice.

The choices of one question share most of their tokens. They are merged into a tree whose tokens
stand depth first in a row, each with its own position; a token sees itself and its ancestors only.
That is the tree attention of speculative decoding (Miao et al. 2024, SpecInfer) used for scoring.
Depth first, a token's descendants are the tokens right after it, so one number per token says who
sees it, and no mask of the row's length squared has to be kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# A shorter beginning is computed with each document: taking it apart costs more than it saves.
MIN_PREFIX = 16


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Score `continuation` after `context`, both token ids.

    Raises:
        ValueError: one of them is empty: nothing would be scored, or after nothing.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (self.context and self.continuation):
            raise ValueError(f"an empty side: {self.context} before {self.continuation}")


@dataclass(slots=True)
class TokenTree:
    """All token requests of one document as one tree of tokens.

    Attributes:
        tokens: token id of each node, depth first: a node, its descendants, then others.
        parents: index of each node's parent, -1 for a root.
        depths: position of each node in its sequence (its rotary position).
        scored: (node, target token) pairs, each once: the node's output predicts the target.
        requests: for each request, the indices into `scored` whose log-probabilities add up.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    scored: list[tuple[int, int]] = field(default_factory=list)
    requests: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def trunk(self) -> int:
        """Count the nodes before the first branch and before the first that is scored."""
        end = min((node for node, _ in self.scored), default=len(self))
        # A second root makes -1 a branch: there is no trunk then.
        branches = {parent for node, parent in enumerate(self.parents) if parent != node - 1}
        return min([end, *(parent + 1 for parent in branches)])

    def without(self, count: int) -> "TokenTree":
        """Return the tree without the first `count` nodes of its trunk; depths stay."""
        return TokenTree(
            tokens=self.tokens[count:],
            parents=[max(parent - count, -1) for parent in self.parents[count:]],
            depths=self.depths[count:],
            scored=[(node - count, target) for node, target in self.scored],
            requests=self.requests,
        )

    def ends(self) -> list[int]:
        """Return for each node the first node after it that does not descend from it."""
        ends = list(range(1, len(self) + 1))
        for node in range(len(self) - 1, -1, -1):
            if (parent := self.parents[node]) >= 0:
                ends[parent] = max(ends[parent], ends[node])
        return ends


def token_tree(requests: Iterable[TokenRequest]) -> TokenTree:
    """Merge requests into a tree, in which common prefixes are stored once.

    The last token of a continuation is only predicted, so it gets no node.
    """
    requests = list(requests)
    tree = TokenTree(requests=[[] for _ in requests])
    children: dict[tuple[int, int], int] = {}
    scored: dict[tuple[int, int], int] = {}
    sequences = [request.context + request.continuation for request in requests]
    # Sorted by their tokens, sequences that begin alike are neighbours: nodes come depth first.
    for number in sorted(range(len(requests)), key=lambda i: sequences[i][:-1]):
        sequence, first = sequences[number], len(requests[number].context) - 1
        node, indices = -1, tree.requests[number]
        for i, token in enumerate(sequence[:-1]):
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tree.tokens)
                tree.tokens.append(token)
                tree.parents.append(node)
                tree.depths.append(i)
            node = child
            if i >= first:
                indices.append(scored.setdefault((node, sequence[i + 1]), len(scored)))
    tree.scored = list(scored)
    return tree


def shared_prefix(trees: Sequence[TokenTree]) -> int:
    """Count the tokens that all trees begin with, before any branch or scored node.

    Returns:
        0 where they are too few to be worth sharing.
    """
    if len(trees) < 2:
        return 0
    most = min(tree.trunk() for tree in trees)
    # All trees agree where the first and the last of them, sorted by their tokens, agree.
    tokens = [tree.tokens[:most] for tree in trees]
    pairs = enumerate(zip(min(tokens), max(tokens), strict=True))
    count = next((i for i, (a, b) in pairs if a != b), most)
    return count if count >= MIN_PREFIX else 0
