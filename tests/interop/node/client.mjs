// The packages of NATS for Node as one of the clients; see ../helpers.py.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { headers as newHeaders, nanos } from "@nats-io/nats-core";
import { Objm } from "@nats-io/obj";
import { ServiceError, Svcm } from "@nats-io/services";
import { connect } from "@nats-io/transport-node";

const nc = await connect({ servers: process.argv[2] });
const js = jetstream(nc);
const jsm = await jetstreamManager(nc);
const kvm = new Kvm(js);
const objm = new Objm(js);
const watched = new Map();
let service;

function content(size) {
  const pattern = Buffer.concat([
    ...Array.from({ length: 4 }, () => Buffer.from(Array.from({ length: 256 }, (_, n) => n))),
    Buffer.from("x"),
  ]);
  return new Uint8Array(Buffer.alloc(size, pattern));
}

function headersDict(headers) {
  const found = {};
  for (const name of headers?.keys() ?? []) found[name] = headers.get(name);
  return found;
}

function headersFrom(dict) {
  const headers = newHeaders();
  for (const [name, value] of Object.entries(dict)) headers.set(name, value);
  return headers;
}

function entryDict(entry) {
  return {
    key: entry.key,
    operation: entry.operation,
    value: entry.string(),
    revision: entry.revision,
  };
}

function infoDict(info) {
  const link = info.options?.link;
  return {
    bucket: info.bucket,
    name: info.name,
    description: info.description,
    headers: headersDict(info.headers),
    metadata: info.metadata,
    size: info.size ?? 0,
    chunks: info.chunks ?? 0,
    chunk_size: info.options?.max_chunk_size ?? null,
    deleted: info.deleted,
    link: link ? [link.bucket, link.name ?? null] : null,
  };
}

function follow(name, iterator, describe) {
  const found = [];
  const one = { found, iterator, wake: () => {} };
  watched.set(name, one);
  (async () => {
    for await (const item of iterator) {
      found.push(describe(item));
      one.wake();
    }
  })();
}

// What a rejected write is refused for: another last sequence number.
const WRONG_LAST_SEQUENCE = [10071, 10164];

async function unlessRefused(promise) {
  try {
    return await promise;
  } catch (error) {
    if (WRONG_LAST_SEQUENCE.includes(error.code)) return null;
    throw error;
  }
}

async function answers(iterator) {
  const found = [];
  for await (const one of await iterator) found.push(one);
  return found;
}

function describeKey(info) {
  return { key: info.name, size: info.size ?? 0, deleted: info.deleted ?? false };
}

const operations = {
  async watched_until(name, wanted) {
    const one = watched.get(name);
    const isLike = (item) => Object.keys(wanted).every((field) => item[field] === wanted[field]);
    while (!one.found.some(isLike)) {
      await new Promise((resolve) => {
        one.wake = resolve;
      });
    }
    one.iterator.stop();
    watched.delete(name);
    return one.found;
  },

  // --- keys and values --------------------------------------------------------------------------

  async kv_create_bucket(bucket, { ttl, marker_ttl, ...options }) {
    if (ttl !== undefined) options.ttl = ttl * 1000;
    if (marker_ttl !== undefined) options.markerTTL = marker_ttl * 1000;
    await kvm.create(bucket, options);
    return await operations.kv_settings(bucket);
  },

  async kv_settings(bucket) {
    const status = await (await kvm.open(bucket)).status();
    return {
      history: status.history,
      ttl: status.ttl / 1000,
      marker_ttl: status.markerTTL / 1000,
      description: status.description ?? "",
      max_bytes: status.max_bytes,
      memory: status.storage === "memory",
    };
  },

  async kv_put(bucket, key, value) {
    return await (await kvm.open(bucket)).put(key, value);
  },

  async kv_create(bucket, key, value, { ttl }) {
    const kv = await kvm.open(bucket);
    return await unlessRefused(kv.create(key, value, ttl ? `${ttl}s` : undefined));
  },

  async kv_update(bucket, key, value, revision) {
    return await unlessRefused((await kvm.open(bucket)).update(key, value, revision));
  },

  async kv_get(bucket, key, { revision }) {
    const entry = await (await kvm.open(bucket)).get(key, revision ? { revision } : undefined);
    return entry === null || entry.operation !== "PUT" ? null : entryDict(entry);
  },

  async kv_delete(bucket, key) {
    await (await kvm.open(bucket)).delete(key);
  },

  async kv_purge(bucket, key, { ttl }) {
    await (await kvm.open(bucket)).purge(key, ttl ? { ttl: `${ttl}s` } : undefined);
  },

  async kv_history(bucket, key) {
    return (await answers((await kvm.open(bucket)).history({ key }))).map(entryDict);
  },

  async kv_keys(bucket) {
    return (await answers((await kvm.open(bucket)).keys())).sort();
  },

  async kv_watch(name, bucket, ...rest) {
    const options = rest.pop();
    const [key] = rest;
    const asked = { key: key ?? ">", ignoreDeletes: options.ignore_deletes ?? false };
    asked.headers_only = options.meta_only ?? false;
    if (options.include_history) asked.include = "history";
    if (options.updates_only) asked.include = "updates";
    if (options.resume_from) asked.resumeFromRevision = options.resume_from;
    follow(name, await (await kvm.open(bucket)).watch(asked), entryDict);
  },

  async kv_write_many(bucket, writer, count) {
    const kv = await kvm.open(bucket);
    for (let number = 0; number < count; number++) {
      const key = `shared.${number % 5}`;
      if (number % 7 === 6) await kv.delete(key);
      else await kv.put(key, `${writer} ${number}`);
    }
  },

  async kv_count(bucket, key, times) {
    while (times > 0) {
      const entry = await operations.kv_get(bucket, key, {});
      const revision = entry === null
        ? await operations.kv_create(bucket, key, "1", {})
        : await operations.kv_update(bucket, key, `${Number(entry.value) + 1}`, entry.revision);
      if (revision !== null) times -= 1;
    }
  },

  async kv_claim(bucket, key, times) {
    while (times > 0) {
      if ((await operations.kv_create(bucket, key, "claimed", {})) === null) continue;
      await operations.kv_delete(bucket, key);
      times -= 1;
    }
  },

  // --- objects ----------------------------------------------------------------------------------

  async obj_create_bucket(bucket, options) {
    const { ttl, ...rest } = options;
    if (ttl !== undefined) rest.ttl = nanos(ttl * 1000);
    await objm.create(bucket, rest);
  },

  async obj_put(bucket, name, size, { chunk, headers, ...meta }) {
    const store = await objm.open(bucket);
    if (headers) meta.headers = headersFrom(headers);
    if (chunk) meta.options = { max_chunk_size: chunk };
    await store.putBlob({ name, ...meta }, content(size));
  },

  async obj_get(bucket, name) {
    const data = await (await objm.open(bucket)).getBlob(name);
    if (data === null) return null;
    return [data.length, createHash("sha256").update(data).digest("hex")];
  },

  async obj_info(bucket, name) {
    const info = await (await objm.open(bucket)).info(name);
    return info === null ? null : infoDict(info);
  },

  async obj_list(bucket) {
    return (await (await objm.open(bucket)).list()).map((info) => info.name).sort();
  },

  async obj_delete(bucket, name) {
    await (await objm.open(bucket)).delete(name);
  },

  async obj_update(bucket, name, renamed, description) {
    await (await objm.open(bucket)).update(name, { name: renamed, description });
  },

  async obj_link(bucket, name, targetBucket, target) {
    const info = await (await objm.open(targetBucket)).info(target);
    await (await objm.open(bucket)).link(name, info);
  },

  async obj_link_bucket(bucket, name, target) {
    await (await objm.open(bucket)).linkStore(name, await objm.open(target));
  },

  async obj_watch(name, bucket) {
    const store = await objm.open(bucket);
    follow(name, await store.watch({ includeHistory: true }), describeKey);
  },

  async obj_write_many(bucket, count) {
    const store = await objm.open(bucket);
    for (let number = 0; number < count; number++) {
      const name = `${number % 3}`;
      if (number % 7 === 6) await store.delete(name);
      else await store.putBlob({ name }, content(number));
    }
  },

  // --- streams ----------------------------------------------------------------------------------

  async js_publish(subject, data, { headers, msg_id, ...expect }) {
    const names = {
      expect_stream: "streamName",
      expect_last_seq: "lastSequence",
      expect_last_subject_seq: "lastSubjectSequence",
      expect_last_msg_id: "lastMsgID",
    };
    const options = { expect: {} };
    if (headers) options.headers = headersFrom(headers);
    if (msg_id) options.msgID = msg_id;
    for (const [name, value] of Object.entries(expect)) options.expect[names[name]] = value;
    try {
      const ack = await js.publish(subject, data, options);
      return { stream: ack.stream, seq: ack.seq, duplicate: ack.duplicate };
    } catch (error) {
      if (typeof error.code !== "number") throw error;
      return { err_code: error.code };
    }
  },

  async js_consume(stream, consumer, count, ...rest) {
    rest.pop();
    const [reply] = rest;
    try {
      await jsm.consumers.info(stream, consumer);
    } catch (error) {
      if (error.message !== "consumer not found") throw error;
      await jsm.consumers.add(stream, {
        durable_name: consumer,
        ack_policy: AckPolicy.Explicit,
      });
    }
    const found = [];
    const durable = await js.consumers.get(stream, consumer);
    while (found.length < count) {
      const messages = await durable.fetch({ max_messages: count - found.length });
      for await (const msg of messages) {
        found.push({
          subject: msg.subject,
          data: msg.string(),
          headers: headersDict(msg.headers),
          seq: msg.seq,
          consumer_seq: msg.info.deliverySequence,
          delivered: msg.info.deliveryCount,
          pending: msg.info.pending,
        });
        if (reply === "nak") msg.nak();
        else await msg.ackAck();
      }
    }
    return found;
  },

  // --- services ---------------------------------------------------------------------------------

  async svc_start(name, options) {
    service = await new Svcm(nc).add({ name, ...options });
    const group = service.addGroup(`${name}-group`);
    const headers = headersFrom({ "Seen-By": "node" });
    group.addEndpoint("echo", {
      metadata: { kind: "loud" },
      handler: (_, msg) => msg.respond(msg.data, { headers }),
    });
    group.addEndpoint("fail", {
      queue: "other",
      handler: () => {
        throw new ServiceError(418, "I am a teapot");
      },
    });
    group.addEndpoint("crash", () => {
      throw new Error("secret");
    });
    await nc.flush();
    return service.info().id;
  },

  async svc_stop() {
    await service.stop();
  },

  async svc_ping(name) {
    return (await answers(new Svcm(nc).client().ping(name))).map((one) => one.id).sort();
  },

  async svc_info(name) {
    const [info] = await answers(new Svcm(nc).client().info(name));
    return {
      name: info.name,
      id: info.id,
      version: info.version,
      description: info.description,
      metadata: info.metadata,
      endpoints: info.endpoints.map((
        one,
      ) => [one.name, one.subject, one.queue_group, one.metadata ?? {}]),
    };
  },

  async svc_stats(name) {
    const [stats] = await answers(new Svcm(nc).client().stats(name));
    return stats.endpoints.map((
      one,
    ) => [one.name, one.subject, one.queue_group, one.num_requests, one.num_errors]);
  },

  async svc_call(subject, data) {
    const reply = await nc.request(subject, data);
    const error = ServiceError.toServiceError(reply);
    return {
      data: reply.string(),
      seen_by: reply.headers?.get("Seen-By") || null,
      error: error ? [error.code, error.message] : null,
    };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, args, options } = JSON.parse(line);
  let reply;
  try {
    reply = { result: (await operations[op](...args, options)) ?? null };
  } catch (error) {
    reply = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
await nc.close();
