"""Checks of speech: every format, streaming, voices, and how it sounds."""

from __future__ import annotations

from collections.abc import Callable

from higgs_image.smoke import audio, transcript
from higgs_image.smoke.checks.model import (
    LONG_TEXT,
    OTHER_TEXT,
    OWN_VOICE,
    SEED,
    TEXT,
    CheckFailedError,
    ImageUnderTest,
    UndecidedError,
    figures,
    sound_of,
)
from higgs_image.smoke.record import Measured
from higgs_image.smoke.sound import Sound, similarity, spectrum


def speech(form: str) -> Callable[[ImageUnderTest], Measured]:
    """Return the check of speech in one format."""

    def check(image: ImageUnderTest) -> Measured:
        """Answer with one whole file at 24 kHz, mono, as long as its text, in time."""
        answer = image.speak(response_format=form, **image.seed)
        (image.folder / f"speech.{form}").write_bytes(answer.body)
        found, types = sound_of(answer, form), audio.FORMATS[form].types
        if answer.type not in types:
            raise CheckFailedError(f"expected Content-Type {types[0]!r}, got {answer.type!r}")
        measured = image.judge(figures(answer, found, TEXT))
        image.spoken[form] = found
        return measured

    return check


def sound(image: ImageUnderTest) -> Measured:
    """Level, offset, clipping, silence and spectrum of the recording are those of the model."""
    found = _recording(image)
    above, strongest = spectrum(found)
    return {
        "loudness": round(found.loudness, 4),
        "offset": round(abs(found.offset), 4),
        "peak": round(found.peak, 4),
        "clipped": round(found.clipped, 5),
        "longest_silence_s": round(found.longest_silence, 2),
        "silence_at_end_s": round(found.silence_at_end, 2),
        "above_4_khz": round(above, 3),
        "strongest_band": round(strongest, 3),
    }


def formats(image: ImageUnderTest) -> Measured:
    """Every format has the same sound, as loud as in WAV; PCM and FLAC have the same samples."""
    if set(image.spoken) != set(audio.FORMATS):
        raise UndecidedError("not every format has a good recording")
    wav = image.spoken["wav"]
    ratios = [found.loudness / (wav.loudness or 1e-9) for found in image.spoken.values()]
    measured: Measured = {
        "loudness_ratio_low": round(min(ratios), 3),
        "loudness_ratio_high": round(max(ratios), 3),
    }
    if not image.real:
        same = [similarity(wav, image.spoken[form]) for form in ("pcm", "flac")]
        measured["similarity"] = round(min(same), 3)
    return measured


def words(image: ImageUnderTest) -> Measured:
    """A speech recognizer hears the text, if one is installed."""
    if not image.real:
        raise UndecidedError("random weights do not speak words")
    try:
        heard = transcript.transcribe(image.folder / "speech.wav")
    except transcript.NoRecognizerError as error:
        raise UndecidedError(str(error)) from None
    return {"word_errors": round(transcript.word_error_rate(TEXT, heard), 3), "heard": heard}


def texts(image: ImageUnderTest) -> Measured:
    """Two texts of one length do not sound alike, whatever was spoken before."""
    one = _reference(image)
    other, measured = image.record("other-text", input=OTHER_TEXT, seed=SEED)
    if _same(one, other):
        raise CheckFailedError("two different texts got the same sound", measured)
    return measured


def streaming(image: ImageUnderTest) -> Measured:
    """PCM arrives in more than one chunk, and is the sound that WAV has."""
    answer = image.speak(input=LONG_TEXT, response_format="pcm", **image.seed)
    found = sound_of(answer, "pcm")
    measured = figures(answer, found, LONG_TEXT) | {"chunks": answer.chunks}
    if not image.real:
        whole = sound_of(image.speak(input=LONG_TEXT, seed=SEED), "wav")
        measured["similarity"] = round(similarity(found, whole), 3)
    return measured


def custom_voice(image: ImageUnderTest) -> Measured:
    """A voice in a folder that is mounted read-only is listed, and speaks unlike another one."""
    if not image.server.has_own_voice:
        raise UndecidedError("a pod cannot mount a folder of this machine")
    names = image.voices()
    if OWN_VOICE not in names:
        raise CheckFailedError(f"{OWN_VOICE!r} from the mounted folder is not in {names}")
    found, measured = image.record("custom-voice", voice=OWN_VOICE, seed=SEED)
    if image.choose_voice() != OWN_VOICE and _same(found, _reference(image)):
        raise CheckFailedError(f"{OWN_VOICE!r} sounds exactly as {image.voice!r}", measured)
    return measured


def _recording(image: ImageUnderTest) -> Sound:
    for form in ("wav", "pcm"):
        if form in image.spoken:
            return image.spoken[form]
    raise UndecidedError("there is no good recording")


def _reference(image: ImageUnderTest) -> Sound:
    if image.reference is None:
        image.reference, _ = image.record("reference", seed=SEED)
    return image.reference


def _same(one: Sound, other: Sound) -> bool:
    return len(one.samples) == len(other.samples) and bool((one.samples == other.samples).all())
