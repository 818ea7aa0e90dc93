"""The records of a .wandb file by the messages of the wandb package, as JSON on standard output: a
list of objects, one a record. Fails on a record that is torn, whose checksum is wrong or that has a
field which wandb does not know."""

import json
import struct
import sys
import zlib

from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet
from wandb.proto import wandb_internal_pb2

data = open(sys.argv[1], "rb").read()
assert data[:7] == b":W&B\xe1\xbe\x00", data[:7]
at, record, records = 7, b"", []


def check_known(message):
    assert len(UnknownFieldSet(message)) == 0, message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                check_known(inner)


while at < len(data):
    left = 32768 - at % 32768
    if left < 7:
        assert data[at:at + left] == b"\0" * left
        at += left
        continue
    crc, length, kind = struct.unpack("<IHB", data[at:at + 7])
    chunk = data[at + 7:at + 7 + length]
    assert zlib.crc32(bytes([kind]) + chunk) == crc, f"checksum at {at}"
    at += 7 + length
    record += chunk
    if kind in (1, 4):
        message = wandb_internal_pb2.Record()
        message.ParseFromString(record)
        check_known(message)
        records.append(MessageToDict(message, preserving_proto_field_name=True))
        record = b""
print(json.dumps(records))
