"""A deployment of Ray Serve whose replicas HARMONY counts: `serve run examples.rayserve:app`, where HARMONY is.

Serve keeps the policy by value: Ray's image needs neither HARMONY nor this file. Tried with Ray 2.60. Before it: a
GPUAutoscaler `serving/chat` in mode Recommend, and `harmony serve` (see docs/howto/ray-serve.md).
"""

from ray import serve


@serve.deployment(
    ray_actor_options={"num_gpus": 1},
    max_ongoing_requests=5,
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 12,
        "target_ongoing_requests": 5,  # never fewer replicas than requests at present need at so many each
        "upscale_delay_s": 0,  # HARMONY holds what is to be held
        "downscale_delay_s": 0,
        "policy": {
            "policy_function": "harmony.rayserve:HarmonyPolicy",
            "policy_kwargs": {"url": "http://harmony.harmony-system:8000", "service": "serving/chat"},
        },
    },
)
class Chat:
    """Your model."""

    async def __call__(self, request: object) -> str:
        """Answer a request."""
        return "hello"


app = Chat.bind()
