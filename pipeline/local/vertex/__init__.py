"""A stand-in of Vertex AI on loopback, in a process of its own: it answers GenerateContent from an image's pixels.

`python -m pipeline.local.vertex --bucket_root DIR` runs it by hand. It proves protocol and books, not
Gemini's accuracy.

Example:
    with VertexStandIn(folder, latency_secs=0.1) as vertex:
        ...  # --vertex_endpoint vertex.endpoint
        vertex.configure(faults=[Fault("UNAVAILABLE", "*/o1:7*", first=2)])
        assert vertex.stats()["max_streams"] <= 100
"""

from pipeline.local.vertex.faults import Fault, Settings, is_noisy
from pipeline.local.vertex.launcher import LoggedCall, VertexStandIn

__all__ = ["Fault", "LoggedCall", "Settings", "VertexStandIn", "is_noisy"]
