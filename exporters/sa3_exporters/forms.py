"""What each target makes of a linear layer, for whoever has to know it without converting a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sa3_exporters import onnx_tiers, openvino
from sa3_exporters.targets import Form, Tier

# By the graph, the tier, the weight's name and its shape; None where the layer stays as it is.
MakesForm = Callable[[str, Tier, str, tuple[int, int]], Form | None]
FORMS: Mapping[str, MakesForm] = {"onnx": onnx_tiers.form, "openvino": openvino.form}
