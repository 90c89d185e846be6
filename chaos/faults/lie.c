// A disk that says that everything is safe: once the file that TRIREME_LIE names is there, nothing is synced any more.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int lies(void) {
    const char *begun = getenv("TRIREME_LIE");
    int before = errno, yes = begun != NULL && access(begun, F_OK) == 0;
    errno = before;
    return yes;
}

int fsync(int file) { return lies() ? 0 : syscall(SYS_fsync, file); }
int fdatasync(int file) { return lies() ? 0 : syscall(SYS_fdatasync, file); }
int syncfs(int file) { return lies() ? 0 : syscall(SYS_syncfs, file); }
int msync(void *from, size_t length, int how) { return lies() ? 0 : syscall(SYS_msync, from, length, how); }
int sync_file_range(int file, off64_t from, off64_t length, unsigned int how) {
    return lies() ? 0 : syscall(SYS_sync_file_range, file, from, length, how);
}
