"""Which nodes have which swarms, against a naive model."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extensions.cluster.directory import Directory, Holder

KEYS = ["a" * 20, "\xff" * 20, "text"]
NODES = [f"{number:016x}" for number in range(3)]
keys, nodes = st.sampled_from(KEYS), st.sampled_from(NODES)


class DirectoryAgainstModel(RuleBasedStateMachine):
    """Nodes open and close swarms, begin anew, and end."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        self.holders = {node: Holder(node) for node in NODES}
        self.model: dict[str, dict[str, Holder]] = {key: {} for key in KEYS}

    @rule(key=keys, node=nodes)
    def opens(self, key: str, node: str) -> None:
        holders = self.model[key]
        expected = [other for other in holders if other != node], node not in holders
        others, is_newcomer = self.directory.opened(key, self.holders[node])
        assert (sorted(others), is_newcomer) == (sorted(expected[0]), expected[1])
        holders[node] = self.holders[node]

    @rule(key=keys, node=nodes)
    def closes(self, key: str, node: str) -> None:
        self.directory.closed(key, node)
        self.model[key].pop(node, None)

    @rule(node=nodes)
    def tells_again(self, node: str) -> None:
        """What it has told before is valid until it is made void."""
        self.holders[node] = Holder(node)

    @rule(key=keys, node=nodes)
    def ends(self, key: str, node: str) -> None:
        holder = self.model[key].get(node)
        if holder:
            self.directory.end(holder)
            for holders in self.model.values():
                for name, one in list(holders.items()):
                    if one is holder:
                        del holders[name]
            if self.holders[node] is holder:
                self.holders[node] = Holder(node)

    @rule(count=st.integers(1, 3))
    def purges(self, count: int) -> None:
        self.directory.purge(count)

    @rule()
    def purges_all(self) -> None:
        while self.directory.must_purge:
            self.directory.purge(2)
        assert len(self.directory) == sum(bool(holders) for holders in self.model.values())

    @invariant()
    def agrees_with_the_model(self) -> None:
        for key, holders in self.model.items():
            assert sorted(self.directory.holders(key)) == sorted(holders)


DirectoryAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestDirectoryAgainstModel = DirectoryAgainstModel.TestCase
