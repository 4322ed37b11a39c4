"""What gossipsub remembers of messages, and backoffs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.wire.gossip_backoff import Backoffs
from bzzz.wire.gossip_cache import MessageCache, SeenCache
from bzzz.wire.gossip_message import OVERHEAD, Sendable, sign
from tests.wire.gossip_network import key_of

KEY = key_of(1)
PEER = key_of(2).peer_id
OTHER = key_of(3).peer_id


def message(seqno: int, topic: str = "t", size: int = 10) -> Sendable:
    return sign(KEY, topic, bytes(size), seqno).sendable()


class SeenCacheTests(SynchronousTestCase):
    """IDs, for the time to live."""

    def test_expiry(self) -> None:
        """An ID is forgotten when its time to live has passed since it was first seen."""
        seen = SeenCache(120.0, 100)
        self.assertTrue(seen.add(b"a", 0.0))
        self.assertFalse(seen.add(b"a", 100.0))
        seen.add(b"b", 60.0)
        seen.expire(119.0)
        self.assertIn(b"a", seen)
        seen.expire(120.0)
        self.assertNotIn(b"a", seen)
        self.assertIn(b"b", seen)

    def test_limit(self) -> None:
        """At the limit the oldest goes."""
        seen = SeenCache(120.0, 3)
        for number in range(5):
            seen.add(b"%d" % number, float(number))
        self.assertEqual((len(seen), seen.evicted), (3, 2))
        self.assertNotIn(b"1", seen)
        self.assertIn(b"2", seen)


class MessageCacheTests(SynchronousTestCase):
    """Messages, for some heartbeats."""

    def test_windows(self) -> None:
        """An ID is told for 3 heartbeats, its message can be had for 5."""
        cache = MessageCache(5, 3, 1000)
        first = message(1)
        cache.put(first)
        for shifts in range(5):
            self.assertEqual(cache.gossip_ids("t"), [first.id] if shifts < 3 else [])
            self.assertIs(cache.get(first.id), first)
            cache.shift()
        self.assertIsNone(cache.get(first.id))
        self.assertEqual((len(cache), cache.bytes), (0, 0))

    def test_topics(self) -> None:
        """IDs are told per topic."""
        cache = MessageCache(5, 3, 10_000)
        one, two = message(1, "one"), message(2, "two")
        cache.put(one)
        cache.shift()
        cache.put(two)
        self.assertEqual(cache.gossip_ids("one"), [one.id])
        self.assertEqual(cache.gossip_ids("two"), [two.id])
        self.assertEqual(cache.gossip_ids("three"), [])

    def test_put_again(self) -> None:
        """A message put twice is held once, in the window it came in first."""
        cache = MessageCache(2, 1, 10_000)
        cache.put(message(1))
        size = cache.bytes
        cache.shift()
        cache.put(message(1))
        self.assertEqual((cache.bytes, cache.gossip_ids("t")), (size, []))

    def test_bytes_are_bounded(self) -> None:
        """Beyond its bytes the oldest messages go, and are no longer told of."""
        cache = MessageCache(5, 3, 7000)
        messages = [message(number, size=1000) for number in range(10)]
        for each in messages:
            cache.put(each)
        self.assertLessEqual(cache.bytes, 7000)
        self.assertEqual(cache.evicted, 6)
        self.assertIsNone(cache.get(messages[5].id))
        self.assertEqual(cache.gossip_ids("t"), [each.id for each in messages[6:]])
        for _ in range(5):
            cache.shift()
        self.assertEqual((len(cache), cache.bytes), (0, 0))

    def test_small_messages(self) -> None:
        """What Python adds counts too: it is most of what messages without data take."""
        cache = MessageCache(5, 3, 10 * OVERHEAD)
        for number in range(20):
            cache.put(message(number, size=0))
        self.assertLess(len(cache), 10)

    def test_retransmissions(self) -> None:
        """One peer gets one message at most so many times; another peer has its own count."""
        cache = MessageCache(5, 3, 5000)
        one = message(1)
        cache.put(one)
        answers = [cache.get_for_peer(one.id, PEER, 3) for _ in range(5)]
        self.assertEqual(answers, [one, one, one, None, None])
        self.assertIs(cache.get_for_peer(one.id, OTHER, 3), one)
        self.assertIsNone(cache.get_for_peer(b"unknown", PEER, 3))


class BackoffTests(SynchronousTestCase):
    """Who must not be grafted yet."""

    def test_slack(self) -> None:
        """This side waits a little longer than the backoff."""
        backoffs = Backoffs(1.0, 10)
        backoffs.add("t", PEER, 60.0)
        self.assertTrue(backoffs.forbids("t", PEER, 60.9))
        self.assertFalse(backoffs.forbids("t", PEER, 61.0))
        self.assertFalse(backoffs.forbids("t", OTHER, 0.0))
        self.assertFalse(backoffs.forbids("u", PEER, 0.0))
        self.assertEqual(backoffs.until("t", PEER), 60.0)

    def test_never_shorter(self) -> None:
        """A second prune can make it longer, not shorter."""
        backoffs = Backoffs(0.0, 10)
        backoffs.add("t", PEER, 60.0)
        backoffs.add("t", PEER, 10.0)
        self.assertEqual(backoffs.until("t", PEER), 60.0)
        backoffs.add("t", PEER, 70.0)
        self.assertEqual(backoffs.until("t", PEER), 70.0)

    def test_expiry(self) -> None:
        """What has ended is forgotten."""
        backoffs = Backoffs(1.0, 10)
        backoffs.add("t", PEER, 60.0)
        backoffs.add("t", OTHER, 70.0)
        backoffs.expire(61.0)
        self.assertEqual(len(backoffs), 1)

    def test_limit(self) -> None:
        """At the limit the first goes."""
        backoffs = Backoffs(1.0, 2)
        for number in range(3):
            backoffs.add("t", key_of(number).peer_id, 60.0)
        self.assertEqual(len(backoffs), 2)
        self.assertFalse(backoffs.forbids("t", key_of(0).peer_id, 0.0))
