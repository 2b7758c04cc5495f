"""Cold items and cold users: was an adapter really trained without them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palate.data import coldusers
from palate.data.splits import held_out_record
from palate.errors import BundleError
from palate.evaluate.protocol import Protocol
from palate.schema import Interactions


def check_held_out(meta: Mapping[str, Any], protocol: Protocol, interactions: Interactions, name: str) -> None:
    """BundleError where an adapter may have been trained with the items or users that `protocol` holds out.

    meta: its `palate.json`, which records `training.held_out_items` or `training.held_out_users` (`held_out_record`);
    {} for an untuned base. A protocol that holds out neither asks for nothing.
    """
    if protocol.split_by not in ("item", "newcomer") or not meta:
        return
    share, seed = protocol.options["share"], protocol.options["seed"]
    if protocol.split_by == "item":
        kind, place = "items", "catalogue"
        held_out = protocol.split(interactions).held_out
        assert held_out is not None  # the split by items has them
        wanted = held_out_record(interactions.item_ids, held_out, share, seed)
    else:
        kind, place = "users", "data set"
        wanted = coldusers.held_out_record(interactions.user_ids, share, seed)
    found = (meta.get("training") or {}).get(f"held_out_{kind}")
    asked = f"{protocol.label} asks about {wanted[kind]} {kind} that training must not have seen"
    if not found:
        raise BundleError(
            f"{asked}, and {name} was trained with all {kind}, so its number would mean nothing; train an adapter with "
            f"`train.protocol: {protocol.name}:share={share}:seed={seed}`"
        )
    drawn = {key: found.get(key) for key in ("share", "seed")}
    if drawn != {"share": share, "seed": seed}:
        raise BundleError(
            f"{asked}, and {name} was trained without another draw of them; evaluate it with "
            f"--protocol {protocol.name}:share={drawn['share']}:seed={drawn['seed']}"
        )
    if found.get("sha256") != wanted["sha256"]:
        raise BundleError(
            f"{asked}, and {name} was trained without others (sha256 {str(found.get('sha256'))[:12]}, here "
            f"{wanted['sha256'][:12]}): the {place} has changed since; train it again"
        )
