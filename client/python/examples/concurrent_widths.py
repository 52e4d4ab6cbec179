"""The same prompt at several widths at once: concurrent_widths.py HOST:PORT [PROMPT]"""

import asyncio
import sys

from flexquant_client import AsyncClient, BatchMode, FixedBits, GenerateRequest, Precision, Stop


async def main() -> None:
    prompt = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"
    async with AsyncClient(sys.argv[1]) as client:
        info = await client.server_info()
        answers = await asyncio.gather(*(
            client.generate(GenerateRequest(prompt, precision=Precision(FixedBits(bits)), stop=Stop(max_tokens=24),
                                            batch_mode=BatchMode.ISOLATED), timeout=60)
            for bits in info.precisions))
    for bits, answer in zip(info.precisions, answers):
        share = answer.report.weight_bytes_read / answer.report.weight_bytes_top
        print(f"{bits} bits ({share:.0%} of the bytes): {answer.text!r}")


if __name__ == "__main__":
    asyncio.run(main())
