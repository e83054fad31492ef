"""Final answers in texts, as MetaMath and GSM8K mark them. Pure functions."""

from __future__ import annotations

import re


def metamath_answer(text: str) -> str | None:
    """What follows the last "The answer is:" (MetaMath's form), to the end of its line.

    >>> metamath_answer("So 3 * 4 = 12. The answer is: 12.")
    '12'
    """
    _, found, answer = text.rpartition("The answer is")
    lines = answer.lstrip(": ").splitlines()
    return lines[0].strip().rstrip(".").strip() if found and lines else None


def gsm8k_number(text: str) -> float | None:
    """The last number of a text, commas left out; None: there is none.

    >>> gsm8k_number("#### 1,234"), gsm8k_number("many")
    (1234.0, None)
    """
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def gsm8k_response(answer: str) -> str:
    """A GSM8K solution in the form of MetaMathQA's responses.

    >>> gsm8k_response("2 and 3 are <<2+3=5>>5.\\n#### 5")
    '2 and 3 are 5.\\n#### 5\\nThe answer is: 5'
    """
    solution = re.sub(r"<<.*?>>", "", answer).strip()
    return f"{solution}\nThe answer is: {solution.rpartition('####')[2].strip()}"


def same_answer(given: str | None, wanted: str) -> bool:
    """Whether an answer is the wanted one: as a number where that is one, else letter by letter.

    Case, blanks and dollar signs around it are of no matter.

    >>> same_answer("1,024.0 apples", "1024"), same_answer("$x+1$", "x+1"), same_answer(None, "1")
    (True, True, False)
    """
    if given is None:
        return False
    if re.fullmatch(r"[$\s]*-?\d[\d,]*(?:\.\d+)?[$\s]*", wanted):
        return gsm8k_number(given) == gsm8k_number(wanted)
    return given.strip("$ ").casefold() == wanted.strip("$ ").casefold()
