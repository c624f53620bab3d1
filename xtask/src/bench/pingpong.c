/* Two processes on one CPU that pass a byte back and forth: each hand-over is one context switch.
 * Usage: pingpong CPU SWITCHES (CPU -1: the one it happens to be on).
 * Prints the wall time per switch in ns: of all, and of each part of the run. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now_ns(void)
{
	struct timespec t;
	if (clock_gettime(CLOCK_MONOTONIC, &t))
		die("clock_gettime");
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void trips(int out, int in, long count)
{
	char byte = 0;
	for (long i = 0; i < count; i++) {
		if (write(out, &byte, 1) != 1 || read(in, &byte, 1) != 1)
			die("pipe");
	}
}

enum { PARTS = 50 };

int main(int argc, char **argv)
{
	int there[2], back[2];
	cpu_set_t set;
	if (argc != 3)
		return 2;
	long round_trips = atol(argv[2]) / 2;
	if (round_trips < 10 * PARTS)
		return 2;
	CPU_ZERO(&set);
	int cpu = atoi(argv[1]);
	CPU_SET(cpu < 0 ? sched_getcpu() : cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		die("sched_setaffinity");
	if (pipe(there) || pipe(back))
		die("pipe");
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		char byte;
		close(there[1]);
		close(back[0]);
		while (read(there[0], &byte, 1) == 1)
			if (write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	close(there[0]);
	close(back[1]);
	trips(there[1], back[0], round_trips / 10);
	long part_trips = round_trips / PARTS;
	double parts[PARTS], sum = 0;
	for (int i = 0; i < PARTS; i++) {
		double begin = now_ns();
		trips(there[1], back[0], part_trips);
		parts[i] = (now_ns() - begin) / (2.0 * part_trips);
		sum += parts[i];
	}
	close(there[1]);
	int status;
	if (waitpid(child, &status, 0) != child || status != 0)
		return 1;
	printf("%.2f", sum / PARTS);
	for (int i = 0; i < PARTS; i++)
		printf(" %.2f", parts[i]);
	puts("");
	return 0;
}
