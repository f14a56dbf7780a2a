"""Bounds that are part of the protocol."""

#: The longest payload that travels in one frame; a longer one goes in parts.
PART_BYTES = 32768
#: What an unfinished large message counts at the least.
MIN_UNFINISHED = 65536
#: How many frames a message may have.
MAX_FRAMES = 4096
#: Headers of a message together, 32 bytes counted for each beside its text.
MAX_HEADERS = 8 << 10
MAX_METHOD = 1 << 10
MAX_ERROR_TEXT = 1 << 10
MAX_DETAILS = 3 << 10
#: A write that takes longer, from a peer that does not say why, ends the stream.
WRITE_TIMEOUT = 30.0
