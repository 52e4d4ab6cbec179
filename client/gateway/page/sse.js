/**
 * Splits a stream of server-sent events into the texts of their `data` fields. Takes text as it comes, cut anywhere;
 * line ends are LF or CRLF. Comments and other fields are passed over; an event that the stream's end cuts is dropped.
 */
export class SseParser {
  #line = '';
  /** @type {string[]} */
  #data = [];

  /**
   * @param {string} text
   * @returns {string[]} data of the events that became complete
   */
  push(text) {
    const lines = (this.#line + text).split('\n');
    this.#line = lines.pop() ?? '';
    /** @type {string[]} */
    const events = [];
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
      if (line === '') {
        if (this.#data.length > 0) events.push(this.#data.join('\n'));
        this.#data = [];
      } else if (line.startsWith('data:')) {
        this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
      }
    }
    return events;
  }
}

/**
 * The data of each event of a response's body.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* readEvents(body) {
  const parser = new SseParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
