"""Streams an answer and says what precision it used: stream.py HOST:PORT [PROMPT]"""

import sys

from flexquant_client import Client, Dynamic, GenerateRequest, Precision, Stop


def main() -> None:
    address = sys.argv[1]
    prompt = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"
    request = GenerateRequest(prompt, precision=Precision(Dynamic()), stop=Stop(max_tokens=48))
    with Client(address) as client:
        client.wait_ready(timeout=30)
        with client.stream(request, timeout=60) as stream:
            for text in stream.texts():
                print(text, end="", flush=True)
        print()
        print(stream.answer.report)


if __name__ == "__main__":
    main()
