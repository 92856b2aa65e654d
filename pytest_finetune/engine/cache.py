"""Keys and values of the tokens that a model has read, with room ahead for the next ones."""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no usable types
    """One layer's keys and values. ``DynamicLayer`` copies all of them for every token more."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Append; return all keys and values so far, of shape (rows, heads, positions, head size)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room: tuple[torch.Tensor, ...] = (key_states[:, :, :0], value_states[:, :, :0])
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self._make_room(2 * end, key_states.shape[0])
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def take(self, rows: torch.Tensor, start: int = 0) -> None:
        """Go on with these rows only, and without the positions before ``start``."""
        end = self.get_seq_length() - start
        self._room = tuple(room[:, :, start:].index_select(0, rows.to(room.device)) for room in self._room)
        self.keys, self.values = (room[:, :, :end] for room in self._room)

    def join(self, other: "RoomyLayer") -> None:
        """Take in the other's rows. All end at the same position; before the shorter ones stand zeros."""
        end = max(self.get_seq_length(), other.get_seq_length())
        made = []
        for own, others in zip((self.keys, self.values), (other.keys, other.values), strict=True):
            rows = len(own)
            # Not left empty: what is masked is still multiplied by 0, and NaN would stay.
            new = own.new_zeros((rows + len(others), own.shape[1], end + end // 2 + 1, own.shape[3]))
            new[:rows, :, end - own.shape[2] : end] = own
            new[rows:, :, end - others.shape[2] : end] = others
            made.append(new)
        self._room = tuple(made)
        self.keys, self.values = (room[:, :, :end] for room in self._room)

    def copied(self, rows: int, room: int) -> "RoomyLayer":
        """Return so many copies of the one row, with room for ``room`` positions more."""
        copy = RoomyLayer()
        copy.lazy_initialization(self.keys, self.values)
        copy.keys, copy.values, copy._room = self.keys, self.values, (self.keys, self.values)
        copy._make_room(self.get_seq_length() + room, rows)
        return copy

    def _make_room(self, positions: int, rows: int) -> None:
        end = self.get_seq_length()
        made = []
        for old in self._room:
            new = old.new_empty((rows, old.shape[1], positions, old.shape[3]))
            new[:, :, :end] = old[:, :, :end]  # one row becomes that of all
            made.append(new)
        self._room = tuple(made)
        self.keys, self.values = (room[:, :, :end] for room in made)


class RoomyCache(Cache):  # type: ignore[misc]  # as above
    """The layers of a model. An empty one is filled by the first pass."""

    def __init__(self, layers: list[RoomyLayer] | None = None) -> None:
        super().__init__(**({"layers": layers} if layers else {"layer_class_to_replicate": RoomyLayer}))

    def copied(self, rows: int, room: int) -> "RoomyCache":
        """See ``RoomyLayer.copied``."""
        return RoomyCache([layer.copied(rows, room) for layer in self.layers])

    def take(self, rows: torch.Tensor, start: int = 0) -> None:
        """See ``RoomyLayer.take``."""
        for layer in self.layers:
            layer.take(rows, start)

    def join(self, other: "RoomyCache") -> None:
        """See ``RoomyLayer.join``."""
        for layer, others in zip(self.layers, other.layers, strict=True):
            layer.join(others)
