"""Held-out items, users and ratings: was an adapter really trained without them?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palate.data.coldusers import held_out_users
from palate.data.splits import held_out_items, held_out_record
from palate.errors import BundleError
from palate.evaluate.protocol import Protocol
from palate.schema import Interactions


def check_held_out(meta: Mapping[str, Any], protocol: Protocol, interactions: Interactions, name: str) -> None:
    """BundleError where an adapter may have been trained with the items or users that `protocol` holds out.

    meta: its `palate.json`, {} for an untuned base. A protocol that holds out neither asks for nothing.
    """
    if protocol.split_by not in ("item", "newcomer") or not meta:
        return
    share, seed = protocol.options["share"], protocol.options["seed"]
    if protocol.split_by == "item":
        ids, held_out, what = interactions.item_ids, held_out_items(interactions.item_ids, share, seed), "items"
    else:
        ids, held_out, what = interactions.user_ids, held_out_users(interactions.user_ids, share, seed), "users"
    check_unseen(meta, protocol, held_out_record(ids, held_out, share, seed, what), what, name)


def check_unseen(meta: Mapping[str, Any], protocol: Protocol, wanted: Mapping[str, Any], what: str, name: str) -> None:
    """BundleError unless `training.held_out_WHAT` of a bundle's `palate.json` records the draw `wanted`."""
    found = (meta.get("training") or {}).get(f"held_out_{what}")
    asked = f"{protocol.label} asks about {wanted[what]:,} {what} that training must not have seen"
    draw = f"{protocol.name}:share={wanted['share']}:seed={wanted['seed']}"
    if not found:
        raise BundleError(
            f"{asked}, and {name} was trained with all {what}, so its number would mean nothing; train an adapter with "
            f"`train.protocol: {draw}`"
        )
    if (found.get("share"), found.get("seed")) != (wanted["share"], wanted["seed"]):
        raise BundleError(
            f"{asked}, and {name} was trained without another draw of them; evaluate it with "
            f"--protocol {protocol.name}:share={found.get('share')}:seed={found.get('seed')}"
        )
    if found.get("sha256") != wanted["sha256"]:
        raise BundleError(
            f"{asked}, and {name} was trained without others (sha256 {str(found.get('sha256'))[:12]}, here "
            f"{wanted['sha256'][:12]}): the {what} have changed since; train it again"
        )
