"""A client of the pair: signs in, hands off, calls, reads the reason; and works as an API client with its own key.

    PASSWORD=... /usr/bin/python3 client.py SHOP BILLING CA CLIENT_ID CLIENT_KEY

It takes Debian's python3-grpcio, python3-protobuf and python3-cryptography, and the code that ../README.md generates.
"""

import base64
import hashlib
import json
import os
import sys
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gen"))

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from handoff.server1.v1 import session_service_pb2, session_service_pb2_grpc
from handoff.server2.v1 import invoice_service_pb2, invoice_service_pb2_grpc
from handoff.v1 import handoff_service_pb2, handoff_service_pb2_grpc

ISSUER = os.environ.get("ISSUER", "https://shop.localhost")
AUDIENCE = os.environ.get("AUDIENCE", "https://billing.localhost")
SERVICE = "/handoff.server2.v1.InvoiceService/"


def bearer(secret):
    return (("authorization", "Bearer " + secret),)


def reason_of(error):
    """Returns why a call was refused: the ErrorInfo of handoff.v1, or of the service's own domain."""
    for name, value in error.trailing_metadata():
        if name != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain.startswith("handoff."):
                return info.reason
    return ""


def refused(call, code):
    """Returns the reason of a call that must fail."""
    try:
        call()
    except grpc.RpcError as error:
        if error.code() != code:
            raise
        return reason_of(error)
    raise SystemExit("the call was not refused")


def expect(what, got, want):
    if got != want:
        raise SystemExit(f"{what}: {got}, want {want}")
    print(f"{what}: {got}")


def operation(method, request):
    packed = any_pb2.Any()
    packed.Pack(request)
    return handoff_service_pb2.IssueHandoffRequest(audience=AUDIENCE, method=SERVICE + method, request=packed)


def base64url(b):
    return base64.urlsafe_b64encode(b).rstrip(b"=").decode()


class Client:
    """An API client. It signs an assertion for each attempt of a call."""

    def __init__(self, client_id, path):
        with open(path) as file:
            jwk = json.load(file)
        if jwk["crv"] != "Ed25519":
            raise SystemExit("this client signs with Ed25519")
        self.id = client_id
        self.key = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(jwk["d"] + "=="))
        # RFC 7638: the thumbprint is of these members, in this order.
        thumbprint = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": jwk["x"]}, separators=(",", ":"))
        self.kid = base64url(hashlib.sha256(thumbprint.encode()).digest())

    def sign(self):
        now = int(time.time())
        header = {"alg": "EdDSA", "typ": "client-authentication+jwt", "kid": self.kid}
        claims = {"iss": self.id, "sub": self.id, "aud": ISSUER, "iat": now, "exp": now + 60, "jti": base64url(os.urandom(16))}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        return signed + "." + base64url(self.key.sign(signed.encode()))


def main():
    shop_address, billing_address, ca, client_id, client_key = sys.argv[1:]
    with open(ca, "rb") as file:
        tls = grpc.ssl_channel_credentials(file.read())
    shop, billing = grpc.secure_channel(shop_address, tls), grpc.secure_channel(billing_address, tls)
    handoffs = handoff_service_pb2_grpc.HandoffServiceStub(shop)
    invoices = invoice_service_pb2_grpc.InvoiceServiceStub(billing)

    # A user: a session, a handoff, the call.
    session = session_service_pb2_grpc.SessionServiceStub(shop).SignIn(
        session_service_pb2.SignInRequest(user_name="alice", password=os.environ["PASSWORD"])).session
    payment = invoice_service_pb2.PayInvoiceRequest(
        invoice_id=os.environ.get("INVOICE", "INV-42"), request_id=str(uuid.uuid4()),
        amount=invoice_service_pb2.Money(currency_code="EUR", minor_units=int(os.environ.get("CENTS", "1200"))))
    handoff = handoffs.IssueHandoff(operation("PayInvoice", payment), metadata=bearer(session))
    other = invoice_service_pb2.PayInvoiceRequest()
    other.CopyFrom(payment)
    other.amount.minor_units = 1
    expect("another amount", refused(
        lambda: invoices.PayInvoice(other, metadata=bearer(handoff.token)), grpc.StatusCode.PERMISSION_DENIED), "FIELD_MISMATCH")
    paid = invoices.PayInvoice(payment, metadata=bearer(handoff.token))
    expect("paid", paid.payment.invoice_id, payment.invoice_id)
    expect("no token", refused(lambda: invoices.PayInvoice(payment), grpc.StatusCode.UNAUTHENTICATED), "TOKEN_MISSING")

    # An API client: no session, an assertion for each attempt.
    client = Client(client_id, client_key)
    look = invoice_service_pb2.GetInvoiceRequest(invoice_id="INV-42")
    assertion = client.sign()
    mine = handoffs.IssueHandoff(operation("GetInvoice", look), metadata=bearer(assertion))
    expect("an invoice of somebody else's", refused(
        lambda: invoices.GetInvoice(look, metadata=bearer(mine.token)), grpc.StatusCode.NOT_FOUND), "INVOICE_NOT_FOUND")
    expect("the assertion again", refused(
        lambda: handoffs.IssueHandoff(operation("GetInvoice", look), metadata=bearer(assertion)), grpc.StatusCode.UNAUTHENTICATED),
        "CLIENT_INVALID")
    handoffs.IssueHandoff(operation("GetInvoice", look), metadata=bearer(client.sign()))
    print("another assertion: a handoff")


if __name__ == "__main__":
    main()
