// A client of the pair: signs in, hands off, calls, reads the reason; and works as an API client with its own key.
//
//	PASSWORD=… node dist/client.js SHOP BILLING CA CLIENT_ID CLIENT_KEY
import { randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { create } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import * as jose from "jose";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { SessionService } from "./gen/handoff/server1/v1/session_service_pb.js";
import { GetInvoiceRequestSchema, InvoiceService, MoneySchema, PayInvoiceRequestSchema } from "./gen/handoff/server2/v1/invoice_service_pb.js";
import { HandoffService } from "./gen/handoff/v1/handoff_service_pb.js";

const [shopAddress, billingAddress, ca, clientId, clientKey] = process.argv.slice(2) as [string, string, string, string, string];
const issuer = process.env.ISSUER ?? "https://shop.localhost";
const audience = process.env.AUDIENCE ?? "https://billing.localhost";

const transport = (address: string) =>
  createGrpcTransport({ baseUrl: `https://${address}`, nodeOptions: { ca: readFileSync(ca) } });
const shop = transport(shopAddress);
const handoffs = createClient(HandoffService, shop);
const invoices = createClient(InvoiceService, transport(billingAddress));
const bearer = (secret: string) => ({ headers: { authorization: `Bearer ${secret}` } });

/** reasonOf returns why a call was refused: the ErrorInfo of the domain handoff.v1. */
function reasonOf(error: unknown): string {
  const details = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return details.find((info) => info.domain === "handoff.v1" || info.domain === "handoff.server2.v1")?.reason ?? "";
}

/** refused returns the reason of a call that must fail. */
async function refused(call: Promise<unknown>, code: Code): Promise<string> {
  try {
    await call;
  } catch (error) {
    if (ConnectError.from(error).code !== code) throw error;
    return reasonOf(error);
  }
  throw new Error("the call was not refused");
}

function expect(what: string, got: string, want: string) {
  if (got !== want) throw new Error(`${what}: ${got}, want ${want}`);
  console.log(`${what}: ${got}`);
}

// A user: a session, a handoff, the call.
const { session } = await createClient(SessionService, shop).signIn({ userName: "alice", password: process.env.PASSWORD ?? "" });
const payment = create(PayInvoiceRequestSchema, {
  invoiceId: process.env.INVOICE ?? "INV-42", amount: { currencyCode: "EUR", minorUnits: BigInt(process.env.CENTS ?? "1200") }, requestId: randomUUID(),
});
const operation = {
  audience, method: "/handoff.server2.v1.InvoiceService/PayInvoice", request: anyPack(PayInvoiceRequestSchema, payment),
};
const handoff = await handoffs.issueHandoff(operation, bearer(session));
expect("another amount", await refused(
  invoices.payInvoice(create(PayInvoiceRequestSchema, { ...payment, amount: create(MoneySchema, { currencyCode: "EUR", minorUnits: 1n }) }), bearer(handoff.token)), Code.PermissionDenied), "FIELD_MISMATCH");
const paid = await invoices.payInvoice(payment, bearer(handoff.token));
expect("paid", paid.payment?.invoiceId ?? "", payment.invoiceId);
expect("no token", await refused(invoices.payInvoice(payment), Code.Unauthenticated), "TOKEN_MISSING");

// An API client: it signs an assertion for each attempt, and has no session.
const jwk = JSON.parse(readFileSync(clientKey).toString()) as jose.JWK;
const key = await jose.importJWK(jwk, jwk.alg);
const kid = await jose.calculateJwkThumbprint(jwk);
const sign = () =>
  new jose.SignJWT({ jti: randomBytes(16).toString("base64url") })
    .setProtectedHeader({ alg: jwk.alg!, typ: "client-authentication+jwt", kid })
    .setIssuer(clientId).setSubject(clientId).setAudience(issuer).setIssuedAt().setExpirationTime("60s").sign(key);
const look = create(GetInvoiceRequestSchema, { invoiceId: "INV-42" });
const looking = { audience, method: "/handoff.server2.v1.InvoiceService/GetInvoice", request: anyPack(GetInvoiceRequestSchema, look) };
const assertion = await sign();
const mine = await handoffs.issueHandoff(looking, bearer(assertion));
expect("an invoice of somebody else's", await refused(invoices.getInvoice(look, bearer(mine.token)), Code.NotFound), "INVOICE_NOT_FOUND");
expect("the assertion again", await refused(handoffs.issueHandoff(looking, bearer(assertion)), Code.Unauthenticated), "CLIENT_INVALID");
await handoffs.issueHandoff(looking, bearer(await sign()));
console.log("another assertion: a handoff");
