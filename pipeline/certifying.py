"""Verdicts with a certificate: an `unsat` is said once the file that proves it has passed its check."""

from __future__ import annotations

import io
import time

from secateur.formats import certificate as certificate_format
from secateur.formats import onnx_model, streams, vnnlib
from secateur.formats.errors import CheckFailed, InputError, UnsupportedError
from secateur.pipeline import certificate, product
from secateur.pipeline.certificate import reading
from secateur.pipeline.questions import Answer, How, sources
from secateur.pipeline.verify.engine import Engine
from secateur.pipeline.verify.proving.prove import prove
from secateur.pipeline.verify.search.work import Work, spent


def decide(model_source: str, property_source: str, timeout: float, path: str, how: How) -> Answer:
    """Decide a property file of a model file; the certificate of an "unsat" is written to `path`, and nothing with any
    other verdict. It is read again from what is written, and checked, before.

    Raises:
        InputError: unreadable files, a property of another network, a path that cannot be written.
        UnsupportedError: several networks, or one that is not of ReLUs and affine operators; before any work.
        CheckFailed: the proof that was found does not pass its check. Then nothing is written.
    """
    started = time.perf_counter()
    if path == streams.STREAM:
        raise InputError(
            "a certificate goes to a file: standard output carries the verdict", hint="name a file"
        )
    if "" not in sources(model_source):
        raise UnsupportedError("certificates are about one network", where=model_source)
    model = onnx_model.read(model_source)
    query = vnnlib.read(property_source)
    if not product.plain(query):
        raise UnsupportedError(
            "certificates are about one network with one input and output", where=query.name
        )
    own = reading.read(model)
    vnnlib.fits(query, own.sizes[0], own.sizes[-1], query.name)
    seconds = time.perf_counter() - started
    engine = Engine(model, how.device, how.memory, branching=how.branching)
    work = Work(query, timeout, {"read": seconds, "build": engine.build_seconds}, how.stop)
    proof = prove(engine, own, work, how.seed)
    if proof is not None:
        with spent("check", work):
            data = certificate_format.to_bytes(proof)
            try:
                found = certificate.check(
                    model, query, certificate_format.from_stream(io.BytesIO(data), path), path
                )
            except CheckFailed as error:
                raise CheckFailed(
                    f"the proof that was found does not pass its check: {error.message}",
                    where=path,
                    hint="nothing is written, and nothing is known of the property: please report this",
                ) from None
            streams.write_bytes(path, data)
        work.message = f"certificate of {found.leaves} leaves written to {path}"
    return Answer(work.result(), model.sha256, query.sha256)
