"""Requests begin a few at a time and in their order; who needs no turn passes all that wait."""

from __future__ import annotations

import asyncio

from harmony.api.turns import Turns


def test_hundreds_begin_in_order_a_few_a_round_and_health_passes_them() -> None:
    async def main() -> tuple[list[str], list[int]]:
        turns, seen, begun = Turns(2), [], [0]

        async def request(number: int) -> None:
            await turns.mine()
            begun[-1] += 1
            seen.append(f"r{number}")

        async def health() -> None:  # three rounds of the loop, as a connection of its own takes
            for _ in range(3):
                await asyncio.sleep(0)
            seen.append("health")

        async def rounds() -> None:
            while len(seen) < 201:
                begun.append(0)
                await asyncio.sleep(0)

        await asyncio.gather(*(request(i) for i in range(200)), health(), rounds())
        return seen, begun

    seen, begun = asyncio.run(main())
    assert [s for s in seen if s != "health"] == [f"r{i}" for i in range(200)]
    assert seen.index("health") <= 12
    assert max(begun) <= 4  # two of one round and two of the next may fall together


def test_who_goes_away_takes_no_turn_and_a_slow_one_keeps_none() -> None:
    async def main() -> list[int]:
        turns, seen = Turns(1), []

        async def request(number: int, wait_s: float) -> None:
            await turns.mine()
            seen.append(number)
            await asyncio.sleep(wait_s)

        tasks = [asyncio.create_task(request(i, 1000.0 if i % 2 else 0.0)) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[5:10]:
            task.cancel()
        while len(seen) < 15:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns.mine()  # at once: nobody waits any more
        return seen

    assert asyncio.run(main()) == [*range(5), *range(10, 20)]
