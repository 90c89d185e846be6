/* Stands between a member and its disk, as LD_PRELOAD has it: each sync of a file waits for as many milliseconds as
 * the file FSYNC_STALL says, if it is there, and is then written down in the file FSYNC_LOG, if there is such a name. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void stall(void) {
    const char *name = getenv("FSYNC_STALL");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    char text[16] = {0};
    if (read(file, text, sizeof text - 1) > 0) usleep(atoi(text) * 1000);
    close(file);
}

static void note(int synced) {
    const char *name = getenv("FSYNC_LOG");
    int file = name ? open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file < 0) return;
    char link[64], line[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", synced);
    ssize_t length = readlink(link, line, sizeof line - 1);
    if (length > 0) {
        line[length] = '\n';
        if (write(file, line, length + 1) < 0) abort();
    }
    close(file);
}

static int through(const char *call, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    stall();
    int done = real(file);
    note(file);
    return done;
}

int fsync(int file) { return through("fsync", file); }
int fdatasync(int file) { return through("fdatasync", file); }
