/* The batch of CHO fed-batch vessels of problem.py in plain C: the limit the others are judged against.
 *
 *     cc -O3 -march=native -ffast-math -fno-finite-math-only -fno-associative-math cho_batch.c -o cho_batch -lm -lpthread
 *     ./cho_batch mild|depleted VESSELS THREADS REPEATS [FILE [RTOL ATOL]]
 *
 * Method: Tsit5, scalar per vessel, one vessel after another. It restarts at every bolus and keeps its step size there.
 * FILE receives the states at the end of every day, doubles [vessel][day][X, Xd, Glc, Gln, Lac, Amm, mAb, V].
 * The output is one line of JSON. Steps are attempts, rejected ones included.
 *
 * The two -fno flags: a step that yields no number is refused, which needs NaN to compare as it should; and sums stay in
 * the order they are written in, with the newest stage last, because a step is one long chain of dependent operations.
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPECIES = 7, STATE = 8, PARAMETERS = 17, DAYS = 14, FIRST_BOLUS_DAY = 3, MOST_THREADS = 256, BLOCK = 8 };
enum { X, XD, GLC, GLN, LAC, AMM, MAB, VOLUME };

static double RTOL = 1e-6, ATOL = 1e-7; /* set once, before any thread starts */
static const double DAY_H = 24.0, FIRST_STEP_H = 0.1, SMALLEST_STEP_H = 1e-9;
static const double BOLUS_L = 0.03, FEED_GLN = 80.0;
static const double START[STATE] = {0.4, 0.01, 30.0, 6.0, 0.5, 0.5, 0.0, 1.0};
static const double NOMINAL[PARAMETERS] = {0.039, 0.004, 1.0,  0.047,  43.0,    6.51,   45.8, 6.51,   0.357,
                                           0.974, 0.70,  0.67, 6.3e-3, 69.2e-3, 3.2e-3, 2.1,  1.51e-3};

/* Parameters of one vessel; constant quotients are taken once, because a division costs as much as ten products. */
typedef struct {
    double mumax, kd, kglc, kgln, kilac, kiamm, kdlac, kdamm, ylac, ramm, mglc, a1, a2, q;
    double mumax_kilac_kiamm, per_yxglc, per_yxgln, yamm_per_yxgln, q_per_mumax;
} Kinetics;

/* Rates per litre and hour; no volume changes between two boluses. */
static inline __attribute__((always_inline)) void rates(const Kinetics *p, const double *restrict y,
                                                        double *restrict dy)
{
    const double x = y[X], glc = y[GLC], gln = y[GLN], lac = y[LAC], amm = y[AMM];
    /* one quotient for all four gates of growth */
    const double mu = p->mumax_kilac_kiamm * glc * gln /
                      (((p->kglc + glc) * (p->kgln + gln)) * ((p->kilac + lac) * (p->kiamm + amm)));
    const double mud = p->kd * lac * amm / ((p->kdlac + lac) * (p->kdamm + amm));
    const double uptake = mu * p->per_yxglc + p->mglc * glc / (glc + 0.01);
    dy[X] = (mu - mud) * x;
    dy[XD] = mud * x;
    dy[GLC] = -uptake * x;
    dy[GLN] = -(mu * p->per_yxgln + p->a1 * gln / (p->a2 + gln)) * x;
    dy[LAC] = p->ylac * uptake * x;
    dy[AMM] = (mu * p->yamm_per_yxgln - p->ramm * amm / (amm + 0.1)) * x;
    dy[MAB] = (p->q - p->q_per_mumax * mu) * x;
}

/* Tsitouras, Computers & Mathematics with Applications 62 (2011) 770-775. The kinetics do not depend on time, so the
 * nodes c are not needed. E is the solution of order 5 less the embedded one of order 4. */
static const double A21 = 0.161;
static const double A31 = -0.008480655492356989, A32 = 0.335480655492357;
static const double A41 = 2.8971530571054935, A42 = -6.359448489975075, A43 = 4.3622954328695815;
static const double A51 = 5.325864828439257, A52 = -11.748883564062828, A53 = 7.4955393428898365,
                    A54 = -0.09249506636175525;
static const double A61 = 5.86145544294642, A62 = -12.92096931784711, A63 = 8.159367898576159,
                    A64 = -0.071584973281401, A65 = -0.028269050394068383;
static const double B1 = 0.09646076681806523, B2 = 0.01, B3 = 0.4798896504144996, B4 = 1.379008574103742,
                    B5 = -3.290069515436081, B6 = 2.324710524099774;
static const double E1 = -0.00178001105222577714, E2 = -0.0008164344596567469, E3 = 0.007880878010261995,
                    E4 = -0.1447110071732629, E5 = 0.5823571654525552, E6 = -0.45808210592918697, E7 = 1.0 / 66.0;

#define EACH for (int i = 0; i < SPECIES; i++)

/* One day of one vessel; y and the step size h move on. Returns the attempts, or -1 where the step size collapses. */
static int day(const Kinetics *p, double *restrict y, double *h)
{
    double k1[SPECIES], k2[SPECIES], k3[SPECIES], k4[SPECIES], k5[SPECIES], k6[SPECIES], k7[SPECIES];
    double stage[SPECIES], next[SPECIES];
    double t = 0.0;
    int attempts = 0;
    rates(p, y, k1);
    for (;;) {
        const double left = DAY_H - t;
        const int last = *h >= left * (1.0 - 1e-9);
        const double s = last ? left : *h;
        /* s * A before the stage: one operation less between the newest stage and the next one */
        EACH stage[i] = y[i] + s * A21 * k1[i];
        rates(p, stage, k2);
        EACH stage[i] = y[i] + s * A31 * k1[i] + s * A32 * k2[i];
        rates(p, stage, k3);
        EACH stage[i] = y[i] + s * A41 * k1[i] + s * A42 * k2[i] + s * A43 * k3[i];
        rates(p, stage, k4);
        EACH stage[i] = y[i] + s * A51 * k1[i] + s * A52 * k2[i] + s * A53 * k3[i] + s * A54 * k4[i];
        rates(p, stage, k5);
        EACH stage[i] = y[i] + s * A61 * k1[i] + s * A62 * k2[i] + s * A63 * k3[i] + s * A64 * k4[i] +
                        s * A65 * k5[i];
        rates(p, stage, k6);
        EACH next[i] = y[i] + s * B1 * k1[i] + s * B2 * k2[i] + s * B3 * k3[i] + s * B4 * k4[i] + s * B5 * k5[i] +
                       s * B6 * k6[i];
        rates(p, next, k7);
        attempts++;

        double square = 0.0;
        EACH {
            const double before = fabs(y[i]), after = fabs(next[i]);
            const double weight = s / (ATOL + RTOL * (before > after ? before : after));
            const double error = E1 * k1[i] + E2 * k2[i] + E3 * k3[i] + E4 * k4[i] + E5 * k5[i] + E6 * k6[i] +
                                 E7 * k7[i];
            const double scaled = error * weight;
            square += scaled * scaled;
        }
        square *= 1.0 / SPECIES;
        /* the error goes with h^5 and this is its square; single precision is plenty for a step size */
        const double wanted = 0.9 * powf((float)square, -0.1f);
        const double proposal = s * (wanted < 5.0 ? (wanted > 0.2 ? wanted : 0.2) : 5.0);
        if (square <= 1.0) {
            memcpy(y, next, sizeof next);
            if (last) {
                /* a step cut short by the end of the day must not shorten the first one of the next day */
                if (proposal > *h) *h = proposal;
                return attempts;
            }
            memcpy(k1, k7, sizeof k7);
            t += s;
            *h = proposal;
        } else {
            *h = square > 1.0 ? proposal : 0.2 * s; /* else: not a number */
            if (*h < SMALLEST_STEP_H) return -1;
        }
    }
}

/* Fourteen days of one vessel into out[DAYS][STATE]. */
static int vessel(const double *v, double feed_glc, double *out)
{
    const Kinetics p = {
        .mumax = v[0], .kd = v[1], .kglc = v[2], .kgln = v[3], .kilac = v[4], .kiamm = v[5], .kdlac = v[6],
        .kdamm = v[7], .ylac = v[10], .ramm = v[12], .mglc = v[13], .a1 = v[14], .a2 = v[15], .q = v[16],
        .mumax_kilac_kiamm = v[0] * v[4] * v[5], .per_yxglc = 1.0 / v[8], .per_yxgln = 1.0 / v[9],
        .yamm_per_yxgln = v[11] / v[9], .q_per_mumax = v[16] / v[0],
    };
    double y[STATE], h = FIRST_STEP_H;
    int attempts = 0;
    memcpy(y, START, sizeof y);
    for (int d = 0; d < DAYS; d++) {
        if (d >= FIRST_BOLUS_DAY) {
            const double after = y[VOLUME] + BOLUS_L, kept = y[VOLUME] / after, fed = BOLUS_L / after;
            EACH y[i] *= kept;
            y[GLC] += fed * feed_glc;
            y[GLN] += fed * FEED_GLN;
            y[VOLUME] = after;
        }
        const int more = day(&p, y, &h);
        if (more < 0) return -1;
        attempts += more;
        memcpy(out + d * STATE, y, sizeof y);
    }
    return attempts;
}

typedef struct {
    int vessels;
    double feed_glc;
    const double *parameters;
    double *out;
    atomic_int next;
    atomic_long attempts;
    atomic_int failed;
} Batch;

static void *work(void *argument)
{
    Batch *batch = argument;
    for (int first; (first = atomic_fetch_add(&batch->next, BLOCK)) < batch->vessels;)
        for (int i = first; i < first + BLOCK && i < batch->vessels; i++) {
            const int attempts = vessel(batch->parameters + (size_t)i * PARAMETERS, batch->feed_glc,
                                        batch->out + (size_t)i * DAYS * STATE);
            if (attempts < 0) atomic_fetch_add(&batch->failed, 1);
            else atomic_fetch_add(&batch->attempts, attempts);
        }
    return NULL;
}

static void simulate(Batch *batch, int threads)
{
    pthread_t helpers[MOST_THREADS];
    int started = 0;
    atomic_store(&batch->next, 0);
    atomic_store(&batch->attempts, 0);
    /* the calling thread works too */
    while (started < threads - 1 && pthread_create(&helpers[started], NULL, work, batch) == 0) started++;
    work(batch);
    for (int i = 0; i < started; i++) pthread_join(helpers[i], NULL);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int count, char **words)
{
    const int depleted = count > 1 && strcmp(words[1], "depleted") == 0;
    const int vessels = count > 2 ? atoi(words[2]) : 0, threads = count > 3 ? atoi(words[3]) : 0;
    const int repeats = count > 4 ? atoi(words[4]) : 0;
    if (count < 5 || (!depleted && strcmp(words[1], "mild") != 0) || vessels < 1 || threads < 1 ||
        threads > MOST_THREADS || repeats < 1) {
        fprintf(stderr, "usage: cho_batch mild|depleted VESSELS THREADS REPEATS [FILE [RTOL ATOL]]\n");
        return 2;
    }
    if (count > 7) {
        RTOL = atof(words[6]);
        ATOL = atof(words[7]);
    }
    double *parameters = malloc(sizeof(double) * PARAMETERS * (size_t)vessels);
    double *out = calloc((size_t)vessels * DAYS * STATE, sizeof(double));
    double *seconds = malloc(sizeof(double) * (size_t)repeats);
    if (!parameters || !out || !seconds) return 1;
    for (int i = 0; i < vessels; i++)
        for (int j = 0; j < PARAMETERS; j++)
            parameters[(size_t)i * PARAMETERS + j] = NOMINAL[j] * exp(0.1 * sin(0.7 * (i + 1) * (j + 1) + j));

    Batch batch = {.vessels = vessels, .feed_glc = depleted ? 500.0 : 1500.0, .parameters = parameters, .out = out};
    simulate(&batch, threads); /* warm-up: pages of the buffer, clock of the processor */
    for (int r = 0; r < repeats; r++) {
        const double start = now();
        simulate(&batch, threads);
        seconds[r] = now() - start;
    }
    if (atomic_load(&batch.failed)) {
        fprintf(stderr, "the step size collapsed in a vessel\n");
        return 1;
    }

    printf("{\"seconds\": [");
    for (int r = 0; r < repeats; r++) printf("%s%.9f", r ? ", " : "", seconds[r]);
    printf("], \"steps\": %.3f, \"final\": [", (double)atomic_load(&batch.attempts) / vessels);
    for (int i = 0; i < STATE; i++) printf("%s%.12g", i ? ", " : "", out[(DAYS - 1) * STATE + i]);
    double sum = 0.0;
    for (int i = 0; i < vessels; i++) sum += out[((size_t)i * DAYS + DAYS - 1) * STATE + MAB];
    printf("], \"mean_mab\": %.12g}\n", sum / vessels);

    if (count > 5) {
        FILE *file = fopen(words[5], "wb");
        const size_t numbers = (size_t)vessels * DAYS * STATE;
        if (!file || fwrite(out, sizeof(double), numbers, file) != numbers || fclose(file)) return 1;
    }
    free(seconds);
    free(out);
    free(parameters);
    return 0;
}
