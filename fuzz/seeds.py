#!/usr/bin/env python3
"""Writes what fuzzing begins with: seeds.py FOLDER makes FOLDER/<target>/corpus for every target.

Stored forms come from the golden files, archives and texts are made here. Names are the hash of the contents, as the
fuzzer names its own, so that running it again adds nothing.
"""

import base64
import hashlib
import io
import pathlib
import struct
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def golden(name):
    lines = (ROOT / "src/store/golden" / f"{name}.hex").read_text().splitlines()
    return [bytes.fromhex(line.split(" ")[1]) for line in lines]


def parts(values):
    """Values with their lengths in front, as the targets take them apart."""
    return b"".join(struct.pack(">H", len(value)) + value for value in values)


def log_entries():
    commands = golden("command-v1")
    for command in commands:
        yield b"\0" + command
    for entry in golden("entry-v1"):
        yield b"\1" + entry
    # An entry around each command: head, term, leader and index, then a payload of kind 1 and its length.
    for command in commands:
        length = bytes([len(command)]) if len(command) < 251 else b"\xfb" + struct.pack("<H", len(command))
        yield b"\1" + bytes([1, 0, 2, 0, 1, 1, 1, 9, 1]) + length + command
    yield b"\2" + parts(commands[:12])
    for first, second in zip(commands, commands[1:]):
        yield b"\2" + parts([first, second])
    yield b"\3" + bytes(64)


def snapshots():
    rows, chunks = golden("record-v1"), golden("snapshot-chunk-v1")
    for chunk in chunks:
        yield b"\0" + parts([chunk])
    yield b"\0" + parts(golden("snapshot-trailer-v1"))
    for row in rows:
        yield b"\1" + parts([row])
    yield b"\1" + parts(rows)
    yield b"\x81" + parts(rows)
    yield b"\1" + parts([row for pair in rows[:8] for row in (pair, b"")])
    yield b"\2" + b"NRVNSNAP" + struct.pack(">H", 1) + bytes(16) + struct.pack(">I", 80) + bytes(80)
    yield b"\3" + bytes([0, 40, 1])
    yield b"\3" + bytes([9])


def varint(number):
    return bytes([number]) if number < 251 else b"\xfb" + struct.pack("<H", number)


def backups():
    def block(envelope):
        return struct.pack(">I", len(envelope)) + envelope

    def chunk(rows):
        return bytes([1, 0, 9, 0, 1]) + varint(len(rows)) + b"".join(varint(len(row)) + row for row in rows)

    [header], rows = golden("backup-header-v1"), golden("record-v1")
    for taken in ([], rows, rows[:1]):
        contents = block(header) + (block(chunk(taken)) if taken else b"")
        counts = varint(len(taken) > 0) + varint(len(taken))
        trailer = bytes([1, 0, 14, 0, 1]) + counts + hashlib.sha256(contents).digest()
        yield b"\1" + contents + block(trailer)
        yield b"\1" + contents
    head = b"age-encryption.org/v1\n-> scrypt " + b"A" * 22 + b" 1\n" + b"A" * 43 + b"\n--- " + b"A" * 43 + b"\n"
    yield b"\0" + head + bytes(64)
    yield b"\0" + head.replace(b"scrypt", b"X25519")
    yield b"\2" + bytes([0, 40, 1])
    yield b"\2" + bytes([9])


def join_tokens():
    addresses = [b"10.0.0.1:9090", b"[2001:db8::7]:9090", b"n3.example.org:1"]
    for taken in (addresses, addresses[:1], [], addresses * 2, [b"nonsense"]):
        lengths = b"".join(bytes([len(address)]) + address for address in taken)
        yield b"\1" + bytes(range(64)) + lengths
        body = bytes(range(96)) + b"".join(struct.pack(">H", len(address)) + address for address in taken)
        body += hashlib.sha256(body).digest()[:4]
        yield b"\0nvj1." + base64.urlsafe_b64encode(body).rstrip(b"=")
    yield b"\0nvj2.AAAA"


def message(**fields):
    """A message between nodes: f3=7 is field 3 with a number, and bytes are bytes, a text or another message."""
    out = b""
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            number = int(name[1:])
            if isinstance(value, int):
                out += bytes([number << 3]) + proto_varint(value)
            else:
                out += bytes([number << 3 | 2]) + proto_varint(len(value)) + value
    return out


def proto_varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


# As fuzz_targets/node_messages.rs numbers them; after them comes the greeting.
CALLS = (
    "Append Vote Snapshot Transfer Propose ReadIndex LeaveBehind RollCall BlobRead BlobHold LogRead LogFollow Exec Tunnel "
    "Admit Greet greeting"
).split()


def call(name, *messages):
    return bytes([CALLS.index(name)]) + parts(messages)


BALLOT, LOG_ID = message(f1=2, f2=2, f3=1), message(f1=1, f2=1, f3=1)
IDENTITY = bytes(range(16))
HELLO, ACCEPTED = message(f1=IDENTITY, f2=message(f1=BALLOT, f2=LOG_ID)), message(f1=b"")


def node_messages():
    entries, commands = golden("entry-v1"), golden("command-v1")
    chunks, trailers = golden("snapshot-chunk-v1"), golden("snapshot-trailer-v1")
    yield call("Append", message(f1=BALLOT))
    for some in (entries, entries[:1], commands[:4]):
        yield call("Append", message(f1=BALLOT, f2=LOG_ID, f3=LOG_ID, f4=some))
    yield call("Vote", message(f1=BALLOT, f2=LOG_ID, f3=1))
    yield call("Vote", message(f1=BALLOT, f2=LOG_ID, f4=1))
    for meta in golden("snapshot-header-v1"):
        head, end = message(f1=message(f1=BALLOT, f2=meta)), message(f3=message(f1=len(chunks)))
        yield call("Snapshot", head, *[message(f2=chunk) for chunk in chunks + trailers], end)
    yield call("Transfer", message(f1=BALLOT, f2=1, f3=LOG_ID))
    for command in commands:
        yield call("Propose", message(f1=command))
    yield call("ReadIndex", b"")
    yield call("LeaveBehind", message(f1=9, f2=b"restored"))
    yield call("RollCall", message(f1=message(f1=BALLOT, f2=LOG_ID)))
    yield call("BlobRead", message(f1=b"0" * 64, f2=5))
    yield call("BlobHold", message(f1=[bytes(32)], f2=[bytes(32), bytes(32)]))
    for name in ("LogRead", "LogFollow"):
        yield call(name, message(f1=IDENTITY, f3=4))
        yield call(name, message(f2=IDENTITY, f4=9))
    start = message(f1=IDENTITY, f2=[b"sh", b"-c", b"id"], f3=message(f1=24, f2=80), f4=1, f5=1)
    resize = message(f4=message(f1=1, f2=1))
    yield call("Exec", message(f1=start), message(f2=b"input"), resize, message(f3=b""))
    target = message(f1=IDENTITY, f2=8080, f3=1)
    yield call("Tunnel", message(f1=target), message(f2=b"data"), message(f4=1 << 20), message(f3=b""))
    admit = message(f1=IDENTITY, f2=bytes(32), f3=IDENTITY, f4=b"0\0", f5=b"n2", f6=b"10.0.0.2:9090", f7=1)
    yield call("Admit", admit)
    yield call("Greet", b"")
    yield call("greeting", message(f1=bytes(16)), ACCEPTED)
    yield call("greeting", HELLO, message(f2=b"wait"))


# As fuzz_targets/node_replies.rs numbers them; after them comes the greeting.
QUESTIONS = (
    "Append Vote Snapshot Transfer Propose ReadIndex RollCall LeaveBehind Blob Hold LogRead LogFollow Exec Tunnel Join Follow "
    "greeting"
).split()


def reply(name, *messages, end=0):
    return bytes([QUESTIONS.index(name), end]) + parts(messages)


def node_replies():
    matching, higher = message(f1=message(f1=LOG_ID)), message(f3=BALLOT)
    for name in ("Append", "Follow"):
        yield reply(name, matching, matching, matching)
        yield reply(name, message(f1=b""), message(f2=LOG_ID))
        yield reply(name, matching, message(f1=message(f1=message(f1=1, f2=1, f3=1 << 40))))
        yield reply(name, higher)
        yield reply(name, matching, b"\xff" * 40, matching)
        yield reply(name, message(f3=message(f1=1 << 62, f2=2, f3=1)), end=18)
    yield reply("Vote", message(f1=BALLOT, f2=1, f3=LOG_ID))
    yield reply("Snapshot", message(f1=BALLOT))
    for said in (message(f1=b""), message(f2=BALLOT), message(f3=message(f1=LOG_ID))):
        yield reply("Transfer", said)
    for answer in golden("answer-v1"):
        yield reply("Propose", message(f1=answer))
    for said in (message(f2=b""), message(f3=message(f1=b"/data", f2=1, f3=2)), message(f4=b"")):
        yield reply("Propose", said)
    for said in (message(f1=9), message(f2=b""), message(f3=b"")):
        yield reply("ReadIndex", said)
    leader, holds = message(f1=1, f2=2, f3=b"127.0.0.1:1"), message(f1=BALLOT, f2=LOG_ID)
    yield reply("RollCall", message(f1=leader, f2=bytes([7]) * 16, f3=holds))
    yield reply("LeaveBehind", b"")
    head = message(f1=message(f1=9))
    yield reply("Blob", head, message(f2=b"four"), message(f2=b"five5"))
    yield reply("Blob", message(f1=message(f1=1 << 60)), message(f2=b"more"), message(f2=b""))
    yield reply("Blob", end=5)
    yield reply("Hold", message(f1=[bytes([7]) * 32, bytes(32)]))
    line = message(f1=3, f2=1 << 60, f3=1, f4=b"a line \x1b[31m")
    for name in ("LogRead", "LogFollow"):
        yield reply(name, message(f1=3, f2=[line, line]), message(f3=5), message(f2=line), end=14)
    yield reply("Exec", message(f1=b"out"), message(f2=b"err"), message(f3=2))
    for code in (3, 8, 9, 14):
        yield reply("Exec", end=code)
        yield reply("Tunnel", end=code)
    yield reply("Tunnel", message(f2=b"HTTP/1.1 200 OK\r\n\r\n"), message(f4=1 << 20), message(f3=b""))
    greeted = message(f1=2, f2=b"0.1.0", f3=1 << 40)
    yield reply("Join", greeted)
    yield reply("Join", message(f1=2, f2=b"0\0", f3=b"-----BEGIN CERTIFICATE-----\n"), end=133)
    yield reply("RollCall", end=231)
    yield reply("greeting", HELLO, ACCEPTED)
    yield reply("greeting", message(f1=bytes(16)), message(f4=b"a twin"))
    yield reply("greeting", HELLO, message(f2=b"wait"))


def entry(name, kind=tarfile.REGTYPE, content=b"", link="", mode=0o644, pax=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, link, mode, len(content)
    if pax:
        info.pax_headers = pax
    return info, content


def tar(entries, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    # Without the long end that Python pads with.
    return out.getvalue().rstrip(b"\0")


def archives():
    made = [
        tar([entry("app", tarfile.DIRTYPE, mode=0o755), entry("app/main.go", content=b"package main\n")]),
        tar([entry("a/b/c/run", content=b"#!/bin/sh\n", mode=0o755), entry("link", tarfile.SYMTYPE, link="a/b/c/run")]),
        tar([entry("one", content=b"1"), entry("two", tarfile.LNKTYPE, link="one")]),
        tar([entry("d", tarfile.DIRTYPE), entry("d/up", tarfile.SYMTYPE, link="../x"), entry("x", content=b"x")]),
        tar([entry("n" * 120 + "/" + "m" * 120, content=b"long")]),
        tar([entry("n" * 120 + "/" + "m" * 120, content=b"long")], tarfile.GNU_FORMAT),
        tar([entry("x", content=b"y" * 700, pax={"comment": "here", "size": "700"})]),
        tar([entry("../escape", content=b"x")]),
        tar([entry("/narvana-escaped", content=b"x")]),
        tar([entry("l", tarfile.SYMTYPE, link="/"), entry("l/narvana-escaped", content=b"x")]),
        tar([entry("l", tarfile.SYMTYPE, link=".."), entry("m", tarfile.SYMTYPE, link="l/..")]),
        tar([entry("Caf\u00e9"), entry("cafe\u0301"), entry("README"), entry("readme")]),
        tar([entry("pipe", tarfile.FIFOTYPE), entry("dev", tarfile.CHRTYPE)]),
        tar([entry(".dockerignore", content=b"*\n!x\n"), entry("x", content=b"x")]),
    ]
    for archive in made:
        yield b"\0" + archive + bytes(1024)
        for kind in (b"\1", b"\2", b"\3"):
            yield kind + archive
    yield b"\0\x1f\x8b\x08\0\0\0\0\0\0\xff\x03\0\0\0\0\0\0\0\0\0"
    yield b"\0\x28\xb5\x2f\xfd\x04\0\x01\0\0\x99\xe9\xd8\x51"
    yield b"\0PK\3\4"


def env_files():
    yield b"A=1\nexport B = two \nC=\"x\\ny\\\"\\\\\"\nD='a\\nb'\nE=\nF=a=b # kept\nA=2\nG=\"\nH=\\n"
    yield b"# a comment\r\n\r\nKEY=value\r\nURL=postgres://user:pw@host/db?x=1\r\n"
    yield b"nonsense\n1B=2\nA B=3\n"
    yield "GR\u00dcSSE=\"h\u00e9\u2028\"\nPATH_2='$HOME'\n".encode()


def dockerfiles():
    yield b"FROM alpine\n"
    yield (
        b"# syntax=docker/dockerfile:1\nARG GO=1.22\n"
        b"FROM --platform=$BUILDPLATFORM docker.io/library/golang:${GO}-alpine AS build\nWORKDIR /src\nCOPY . .\n"
        b"RUN --mount=type=cache,target=/root/.cache \\\n    # inside\n\n    go build -o /out/app .\n"
        b"FROM scratch\nCOPY --from=build /out/app /app\nEXPOSE 8080 9000-9002/tcp 53/udp\nUSER 1000:1000\n"
        b"VOLUME [\"/data\"]\nENTRYPOINT [\"/app\"]\n"
    )
    yield b"FROM alpine\nRUN <<EOF cat <<-'TWO'\nEXPOSE 1\nEOF\n\tx\n\tTWO\nEXPOSE 80\n"
    yield b"# escape=`\nFROM alpine\nRUN echo C:\\\nEXPOSE 80\nRUN echo `\n  x\n"
    yield b"ARG V\nFROM alpine:${V:-3.20}${V:+x}\nENV A=1 B=\"$A b\" C=\\$A\nEXPOSE ${A}\n"
    yield b"FROM alpine AS a\nONBUILD RUN id\nADD --chown=1:1 https://example.com/x /\nHEALTHCHECK --interval=5s CMD x\n"
    for line in (
        b"RUN --security=insecure id",
        b"RUN --network=host id",
        b"RUN --mount=type=bind,from=base,source=/,target=/x,rw id",
        b"RUN --mount=type=secret,id=x --mount=type=ssh --mount=type=tmpfs,target=/t id",
        b"WORKDIR /proc/self/fd/8",
        b"VOLUME /var/run/docker.sock",
        b"FROM 127.0.0.1:5000/x",
        b"COPY --from=localhost/x ../a /b",
        b"ADD https://user:pw@example.com/x /",
        b"USER 4294967296",
        b"SHELL [\"/bin/sh\", \"-c\"]",
        b"STOPSIGNAL SIGTERM",
        b"LABEL a=\"b \\\n c\"",
        b"CMD [\"a\", \"b\"",
    ):
        yield b"FROM alpine AS base\n" + line + b"\n"


TARGETS = {
    "log_entry": log_entries,
    "snapshot": snapshots,
    "backup": backups,
    "join_token": join_tokens,
    "node_messages": node_messages,
    "node_replies": node_replies,
    "archive": archives,
    "env_file": env_files,
    "dockerfile_scan": dockerfiles,
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for target, seeds in TARGETS.items():
        folder = pathlib.Path(sys.argv[1]) / target / "corpus"
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds():
            (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)


main()
