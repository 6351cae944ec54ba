// Node, with amqplib. A publisher in any language does the same. npm install amqplib
//
//   persistent, mandatory, confirmed: only then does a successful publish mean that every cluster has the event.
//
// Usage: BROKER_URL=amqp://shop@rabbitmq.internal/ node publish.mjs product_updated '{"id": "abc-123", "price": 109.99}'

import { randomUUID } from "node:crypto";

import amqp from "amqplib";

// JSON.stringify writes NaN and Infinity as null.
function refuseNotFinite(name, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw new Error(`${name} is ${value}: JSON has no such number`);
  return value;
}

export async function publish(channel, type, data) {
  const messageId = randomUUID();
  const body = Buffer.from(JSON.stringify({ ...data, type }, refuseNotFinite));
  const properties = {
    persistent: true,
    mandatory: true,
    contentType: "application/json",
    messageId,
    timestamp: Math.floor(Date.now() / 1000),
    type,
    appId: "shop",
  };
  let returned = false; // an event for which there is no queue is returned first, and confirmed then
  const onReturn = (message) => (returned ||= message.properties.messageId === messageId);
  channel.on("return", onReturn);
  try {
    await new Promise((resolve, reject) =>
      channel.publish("product.updates", "", body, properties, (error) => (error ? reject(error) : resolve())),
    );
  } finally {
    channel.off("return", onReturn);
  }
  if (returned) throw new Error("no cluster's queue is bound to product.updates: nothing stored the event");
}

const [type, data] = process.argv.slice(2);
const connection = await amqp.connect(process.env.BROKER_URL);
const channel = await connection.createConfirmChannel();
try {
  await publish(channel, type, JSON.parse(data));
} finally {
  await connection.close();
}
