"""
The messages of Prometheus remote write 1.0, as classes of google.protobuf.

https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

_PACKAGE: Final = "wsgi_prom.remote_write"
# By message: the number, the name and the type of each field; a field of messages is repeated.
_FIELDS: Final[dict[str, tuple[tuple[int, str, str], ...]]] = {
    "Label": ((1, "name", "string"), (2, "value", "string")),
    "Sample": ((1, "value", "double"), (2, "timestamp", "int64")),
    "TimeSeries": ((1, "labels", "Label"), (2, "samples", "Sample")),
    "MetricMetadata": (
        (1, "type", "int32"),  # an enum, which is written the same
        (2, "metric_family_name", "string"),
        (4, "help", "string"),
        (5, "unit", "string"),
    ),
    "WriteRequest": ((1, "timeseries", "TimeSeries"), (3, "metadata", "MetricMetadata")),
}

# The numbers of MetricMetadata.type, by the type as the client library spells it.
TYPES: Final = {
    "counter": 1,
    "gauge": 2,
    "histogram": 3,
    "gaugehistogram": 4,
    "summary": 5,
    "info": 6,
    "stateset": 7,
}


@cache
def write_request() -> Any:
    """Return the class WriteRequest. Raises ImportError without protobuf, an extra."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="wsgi_prom/remote_write.proto", package=_PACKAGE, syntax="proto3"
    )
    for message, fields in _FIELDS.items():
        descriptor = file.message_type.add(name=message)
        for number, name, kind in fields:
            if kind in _FIELDS:
                descriptor.field.add(
                    name=name,
                    number=number,
                    label=field.LABEL_REPEATED,
                    type=field.TYPE_MESSAGE,
                    type_name=f".{_PACKAGE}.{kind}",
                )
            else:
                descriptor.field.add(
                    name=name,
                    number=number,
                    label=field.LABEL_OPTIONAL,
                    type=getattr(field, f"TYPE_{kind.upper()}"),
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.WriteRequest"))
