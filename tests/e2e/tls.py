"""A TLS server before a plain one: tls.py PORT FIRST_DAY LAST_DAY CERTIFICATE

Makes itself a certificate for 127.0.0.1 that is valid between two days (as
offsets from today), writes it to the file CERTIFICATE, prints the port it
listens on, and passes each connection on to PORT.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import ssl
import sys
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make_certificate(first_day, last_day):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test hub")])
    today = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today + datetime.timedelta(days=first_day))
        .not_valid_after(today + datetime.timedelta(days=last_day))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(pem), private


async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


async def serve(context, port):
    # One thread: a TLS connection read and written by two of them lost a
    # request now and then.
    async def pass_on(client, to_client):
        server, to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(client, to_server), copy(server, to_client))
        to_server.close()

    listener = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


def main():
    port, first_day, last_day = map(int, sys.argv[1:4])
    certificate, private = make_certificate(first_day, last_day)
    with open(sys.argv[4], "wb") as file:
        file.write(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "both.pem")
        with open(path, "wb") as file:
            file.write(certificate + private)
        context.load_cert_chain(path)
    asyncio.run(serve(context, port))


main()
