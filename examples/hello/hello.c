/* hello: the smallest web application that behaves well under a platform.
 *
 * It listens where PORT says, answers /health for the health check and a greeting for everything else, says on its
 * standard output what it does, and ends on SIGTERM after the request at hand. One request at a time is enough here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { REQUEST_BYTES_MAX = 8192, CLIENT_TIMEOUT_SECONDS = 5, BACKLOG = 64 };

static volatile sig_atomic_t stopping = 0;

static void on_signal(int signal_number)
{
    (void)signal_number;
    stopping = 1;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int listen_on(int port)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0) die("socket");
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {0};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    address.sin_port = htons(port);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(listener, BACKLOG) < 0) die("listen");
    return listener;
}

/* Reads until the empty line that ends a request's head. Returns 0 when the client sent something else or nothing. */
static int read_head(int client, char *head)
{
    size_t used = 0;
    while (used < REQUEST_BYTES_MAX - 1) {
        ssize_t got = read(client, head + used, REQUEST_BYTES_MAX - 1 - used);
        if (got <= 0) return 0;
        used += got;
        head[used] = '\0';
        if (strstr(head, "\r\n\r\n")) return 1;
    }
    return 0;
}

static void write_all(int client, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = write(client, bytes, length);
        if (sent <= 0) return; /* The client is gone: nobody is left to tell. */
        bytes += sent;
        length -= sent;
    }
}

static void answer(int client, const char *greeting)
{
    char head[REQUEST_BYTES_MAX], body[512], response[1024], method[16], path[256];
    if (!read_head(client, head) || sscanf(head, "%15s %255s", method, path) != 2) return;

    int health = strcmp(path, "/health") == 0;
    if (health) {
        snprintf(body, sizeof body, "ok\n");
    } else {
        char host[128] = "?";
        gethostname(host, sizeof host - 1);
        snprintf(body, sizeof body, "%s\nAnswered by %s.\n", greeting, host);
    }
    size_t body_length = strcmp(method, "HEAD") == 0 ? 0 : strlen(body);
    int length = snprintf(response, sizeof response,
                          "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
                          "Content-Length: %zu\r\nConnection: close\r\n\r\n%.*s",
                          strlen(body), (int)body_length, body);
    write_all(client, response, length);
    if (!health) printf("%s %s\n", method, path);
}

int main(void)
{
    const char *port_text = getenv("PORT"), *greeting = getenv("GREETING");
    int port = port_text ? atoi(port_text) : 8080;
    if (port < 1 || port > 65535) {
        fprintf(stderr, "PORT must be a number from 1 to 65535, not %s\n", port_text);
        return 2;
    }
    if (!greeting) greeting = "Hello from narvana!";
    setvbuf(stdout, NULL, _IOLBF, 0);

    /* No SA_RESTART: accept() must return when the platform asks us to stop. */
    struct sigaction stop = {0};
    stop.sa_handler = on_signal;
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);

    int listener = listen_on(port);
    printf("listening on port %d\n", port);
    while (!stopping) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            die("accept");
        }
        struct timeval timeout = {CLIENT_TIMEOUT_SECONDS, 0};
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
        setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
        answer(client, greeting);
        close(client);
    }
    printf("stopping\n");
    return 0;
}
