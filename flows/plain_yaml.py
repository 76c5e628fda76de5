"""YAML of people who may mean harm: plain values alone, once each, small and not deep.

Tags that would build objects are refused by the safe loader. Aliases are refused as well, since a
few lines of them stand for any number of values.
"""

from typing import Any, final

import yaml

LARGEST = 2**16
"""Characters of a text; configurations have about a thousand."""
DEEPEST = 20
LONGEST_NUMBER = 40  # digits


def read_plain(text: str) -> Any:
    """Return the values of a YAML text.

    Raises:
        ValueError: not YAML, or more than plain values; the message says where.
    """
    if len(text) > LARGEST:
        raise ValueError(f"got {len(text)} characters; expected at most {LARGEST}")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # a safe one
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # `!!int x`, 2001-13-45 and the like: no common type
        raise ValueError(f"{type(error).__name__}: {error}") from error


@final
class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, keys that are given twice, depths and endless numbers."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node that is no alias and not too deep."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias; write the value out", event)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"more than {DEEPEST} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping without lost keys."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise _refused(f"the key {key.value[:50]!r} twice", key)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Construct a number that can be shown."""
        if len(node.value) > LONGEST_NUMBER:
            raise _refused(f"a number of {len(node.value)} digits", node)
        return int(super().construct_yaml_int(node))


def _refused(what: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"got {what}", problem_mark=place.start_mark)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
