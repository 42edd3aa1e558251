/**
 * Names Linux error numbers. The numbers are those of x86-64 and arm64 (include/uapi/asm-generic/errno*.h).
 * Does not read errno and throws nothing.
 */

const NAMES: ReadonlyArray<string> = (
  "EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV " +
  "ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK " +
  "ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP . ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT " +
  "EBADE EBADR EXFULL ENOANO EBADRQC EBADSLT . EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV " +
  "ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX " +
  "ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT " +
  "ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET " +
  "ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH " +
  "EALREADY EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY " +
  "EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON"
).split(" ")

/** The name of an error number, of either sign: `EINVAL` for 22 and -22, `errno 999` when the number has no name. */
export const errnoName = (number: number): string => {
  const name = NAMES[Math.abs(number) - 1]
  return name === undefined || name === "." ? `errno ${Math.abs(number)}` : name
}

/** The positive number of a name like `EAGAIN`, or undefined. */
export const errnoNumber = (name: string): number | undefined => {
  const index = name === "." ? -1 : NAMES.indexOf(name)
  return index < 0 ? undefined : index + 1
}

/** What a failed call of this folder throws: its name, the argument that matters, and the name of its errno. */
export class CallFailed extends Error {
  readonly call: string
  readonly argument: string
  readonly errno: string
  constructor(call: string, argument: string, errno: string) {
    super(`${call}(${argument}) failed with ${errno}`)
    this.name = "CallFailed"
    this.call = call
    this.argument = argument
    this.errno = errno
  }
}
