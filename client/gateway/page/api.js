import { readEvents } from './sse.js';

/**
 * @typedef {{id: number, text: string, bits: number, entropy: number, top1_probability: number, margin: number,
 *   logprob: number, level?: number, audit_kl?: number}} Token A token of an answer; entropy in nats.
 * @typedef {{policy?: string, mean_bits?: number, histogram?: Record<string, number>, weight_bytes_read?: number,
 *   weight_bytes_top?: number, max_mean_kl?: number, predicted_mean_kl?: number, within_budget?: boolean,
 *   plan_changes?: number, calibrated?: boolean,
 *   audit?: {tokens: number, mean_kl: number, low_kl?: number, high_kl?: number}}} PrecisionReport KL in nats.
 * @typedef {{max_mean_kl?: number, bits?: number, policy?: string}} Precision What a request asks for.
 * @typedef {{text: string, tokens: Token[], finishReason?: string, precision?: PrecisionReport}} Piece
 * @typedef {{role: string, content: string}} Message
 * @typedef {{model: string, model_revision: string, server_version: string, context_tokens: number,
 *   precisions: number[], calibrated: boolean, chat?: boolean, load?: {running: number, waiting: number},
 *   executors?: {address: string, device: string, ready: boolean, kv_blocks?: number, kv_blocks_used?: number,
 *   running?: number}[]}} ServerState
 * @typedef {{model?: string, messages?: Message[], prompt?: string, temperature?: number, maxTokens?: number,
 *   seed: number, precision: Precision, isolated: boolean}} AnswerRequest Either messages or a prompt.
 */

/** A failure whose message is a sentence for people. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} [status] HTTP's; 0 = no answer at all
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * What the server says of itself. Throws ApiError.
 * @param {string} apiKey
 * @returns {Promise<ServerState>}
 */
export async function fetchServerState(apiKey) {
  const response = await send('v1/flexquant/server', { headers: headers(apiKey), cache: 'no-store' });
  return parseJson(await response.text(), response.status);
}

/**
 * Streams an answer piece by piece. Throws ApiError, and AbortError once the signal says so.
 * @param {AnswerRequest} request
 * @param {string} apiKey
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Piece>}
 */
export async function* streamAnswer(request, apiKey, signal) {
  const response = await send(request.messages ? 'v1/chat/completions' : 'v1/completions', {
    method: 'POST',
    headers: { ...headers(apiKey), 'Content-Type': 'application/json' },
    body: JSON.stringify(requestBody(request)),
    signal,
  });
  if (!response.body) throw new ApiError('The server sent an empty answer.', response.status);
  try {
    for await (const data of readEvents(response.body)) {
      if (data === '[DONE]') return;
      const chunk = parseJson(data, response.status);
      if (chunk.error) throw new ApiError(errorSentence(chunk.error.message, 200), 200);
      yield toPiece(chunk);
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError('The connection broke before the answer was complete.');
  }
  throw new ApiError('The connection ended before the answer was complete.');
}

/**
 * The body of a request; fields that are not set are left to the server.
 * @param {AnswerRequest} request
 */
export function requestBody(request) {
  return {
    model: request.model,
    ...(request.messages ? { messages: request.messages } : { prompt: request.prompt }),
    stream: true,
    stream_options: { include_usage: true },
    temperature: request.temperature,
    max_tokens: request.maxTokens,
    seed: request.seed,
    flexquant: {
      precision: request.precision,
      batch_mode: request.isolated ? 'isolated' : undefined,
      token_details: true,
    },
  };
}

/**
 * @param {any} chunk of either API
 * @returns {Piece}
 */
export function toPiece(chunk) {
  const choice = chunk.choices?.[0];
  const extension = chunk.flexquant ?? choice?.flexquant ?? {};
  return {
    text: choice?.delta?.content ?? choice?.text ?? '',
    tokens: extension.tokens ?? [],
    finishReason: choice?.finish_reason ?? undefined,
    precision: extension.precision ?? chunk.usage?.precision,
  };
}

/**
 * What a status and the server's words mean, as a sentence.
 * @param {string|undefined} message
 * @param {number} status
 * @param {string} [retryAfter] seconds
 */
export function errorSentence(message, status, retryAfter) {
  // A bare code, such as CANCELLED, is no sentence.
  const said = !message || /^[A-Z_]+$/.test(message) ? '' : toSentence(message);
  if (status === 401 || status === 403) {
    return `The server did not accept the API key. Enter one in the settings. ${said}`.trim();
  }
  if (status === 429) {
    const wait = retryAfter ? ` Try again in ${retryAfter} s.` : ' Try again in a moment.';
    return `The server is at its limit.${wait} ${said}`.trim();
  }
  if (status === 502 || status === 503) return `The model server is not ready. ${said}`.trim();
  if (status === 501) return `${said} Plain text, in the settings, needs no chat template.`.trim();
  return said || `The server answered with status ${status}.`;
}

/** @param {string} text */
function toSentence(text) {
  const trimmed = text.trim();
  const sentence = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}

/**
 * @param {string} apiKey
 * @returns {Record<string, string>}
 */
function headers(apiKey) {
  if (!/^[!-~]*$/.test(apiKey)) {
    throw new ApiError('The API key has blanks or letters that no key has. Copy it again into the settings.');
  }
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
}

/**
 * @param {string} url
 * @param {RequestInit} options
 */
async function send(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError('The server cannot be reached. Check that flexquant-gateway is running, then try again.');
  }
  if (response.ok) return response;
  let message;
  try {
    message = (await response.json()).error?.message;
  } catch {
    message = undefined;  // not JSON: a proxy's page, say
  }
  throw new ApiError(errorSentence(message, response.status, response.headers.get('Retry-After') ?? undefined),
                     response.status);
}

/**
 * @param {string} text
 * @param {number} status
 */
function parseJson(text, status) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError('The server sent something that is not JSON. Is flexquant-gateway at this address?', status);
  }
}
