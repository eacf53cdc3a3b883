// Runs a function in a child process and keeps what it wrote to stderr: for code that ends the
// process, takes locks or changes limits.
#ifndef FSTQ_CHILD_H
#define FSTQ_CHILD_H

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
    int status, signal; // status -1: ended by the signal
    char text[2048];    // of stderr
};

static inline struct child run_child(void (*fn)(void *), void *arg)
{
    struct child c = {-1, 0, ""};
    int end[2];
    if (pipe(end) < 0)
        abort();
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        dup2(end[1], STDERR_FILENO);
        close(end[0]);
        close(end[1]);
        fn(arg);
        _exit(0);
    }
    close(end[1]);
    size_t n = 0;
    ssize_t k;
    char rest[512];
    while (n < sizeof c.text - 1 && (k = read(end[0], c.text + n, sizeof c.text - 1 - n)) > 0)
        n += (size_t)k;
    while (read(end[0], rest, sizeof rest) > 0) // a pipe closed early would end the child
        ;
    close(end[0]);
    int w;
    waitpid(pid, &w, 0);
    if (WIFEXITED(w))
        c.status = WEXITSTATUS(w);
    else
        c.signal = WTERMSIG(w);
    return c;
}

#endif
