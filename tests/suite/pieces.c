/* Before the C library: a regular file gives and takes no more than about half of what is asked for at once, and every third such
   call is interrupted by a signal first. How often that was goes to the file that PIECES names. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a disk gives and takes as a whole (open(2), O_DIRECT). */
enum { BLOCK = 4096 };

static atomic_long calls, cut, interrupted;

/* How many bytes this call is for; -1 when a signal comes first. */
static ssize_t part(int fd, size_t bytes)
{
	struct stat stat;
	if (bytes < 2 || fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode))
		return bytes;
	if (atomic_fetch_add(&calls, 1) % 3 == 2) {
		atomic_fetch_add(&interrupted, 1);
		errno = EINTR;
		return -1;
	}
	size_t half = bytes / 2;
	if (fcntl(fd, F_GETFL) & O_DIRECT)
		half -= half % BLOCK;
	if (half == 0)
		return bytes;
	atomic_fetch_add(&cut, 1);
	return half;
}

ssize_t read(int fd, void *buffer, size_t bytes)
{
	ssize_t some = part(fd, bytes);
	return some < 0 ? some : syscall(SYS_read, fd, buffer, some);
}

ssize_t write(int fd, const void *buffer, size_t bytes)
{
	ssize_t some = part(fd, bytes);
	return some < 0 ? some : syscall(SYS_write, fd, buffer, some);
}

ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset)
{
	ssize_t some = part(fd, bytes);
	return some < 0 ? some : syscall(SYS_pread64, fd, buffer, some, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset)
{
	ssize_t some = part(fd, bytes);
	return some < 0 ? some : syscall(SYS_pwrite64, fd, buffer, some, offset);
}

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	return pread64(fd, buffer, bytes, offset);
}

ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
	return pwrite64(fd, buffer, bytes, offset);
}

__attribute__((destructor)) static void tell(void)
{
	const char *path = getenv("PIECES");
	FILE *file = path ? fopen(path, "w") : NULL;
	if (file) {
		fprintf(file, "%ld %ld\n", atomic_load(&cut), atomic_load(&interrupted));
		fclose(file);
	}
}
