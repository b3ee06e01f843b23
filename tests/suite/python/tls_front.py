"""A TLS listener before a server that has none. Says its port.

tls_front.py CERTIFICATE KEY PORT
"""

import asyncio
import ssl
import sys


async def passed(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(reader, writer):
    back, forth = await asyncio.open_connection("127.0.0.1", int(sys.argv[3]))
    await asyncio.gather(passed(reader, forth), passed(back, writer))


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
