/**
 * Reads and writes a connected stream socket that is there already as a descriptor. Opens none.
 */

/** Takes a descriptor over: it is closed with the socket. Bun takes `fd`, which its types do not name. */
export const adoptDescriptor = (
  fd: number,
  socket: Bun.SocketHandler<undefined>,
  allowHalfOpen = false
): Promise<Bun.Socket<undefined>> =>
  Bun.connect({ fd, allowHalfOpen, socket } as unknown as Bun.UnixSocketOptions<undefined>)
