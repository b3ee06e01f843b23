"""A mail server that keeps what it is sent, as a line of JSON each in a file. Prints its port.

smtp_sink.py MODE FILE CERTIFICATE KEY, where MODE is starttls, tls, none, stripped (a password, and no STARTTLS), thinking (none, and a
while until it has taken a mail that it keeps) or slow (never says a word). It wants the user `backup` with the password `pass-of-the-mailbox`, but in the modes none and thinking; it refuses mails to gone@school.example.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


THOUGHT = []


class Sink:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address == "gone@school.example":
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: mail.get_body((kind,)).get_content()
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "headers": {name.lower(): str(value) for name, value in mail.items()},
            "plain": part("plain"),
            "html": part("html"),
            "parts": [[it.get_content_type(), it.get_content_charset()] for it in mail.walk() if not it.is_multipart()],
            "encrypted": session.ssl is not None,
            "raw": envelope.content.decode("ascii"),
        }
        with open(sys.argv[2], "a") as file:
            file.write(json.dumps(line) + "\n")
        if sys.argv[1] == "thinking":
            await asyncio.sleep(11 if not THOUGHT else 0)
            THOUGHT.append(line)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    fits = data.login == b"backup" and data.password == b"pass-of-the-mailbox"
    return AuthResult(success=fits, handled=False)


async def main():
    mode = sys.argv[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if mode not in ("none", "thinking"):
        context.load_cert_chain(sys.argv[3], sys.argv[4])
    if mode == "slow":
        async def silent(reader, writer):
            await asyncio.sleep(3600)
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
    else:
        login = {} if mode in ("none", "thinking") else {"authenticator": authenticate, "auth_required": True}
        starttls = {"tls_context": context, "require_starttls": True} if mode == "starttls" else {"auth_require_tls": False}
        loop = asyncio.get_running_loop()
        over = context if mode == "tls" else None
        server = await loop.create_server(lambda: SMTP(Sink(), **login, **starttls), "127.0.0.1", 0, ssl=over)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
