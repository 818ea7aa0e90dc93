// A libnvidia-ml.so.1 for tests: a machine with two GPUs, of which the second has every fault that
// NVML can tell. Written from NVML's documentation, not from the code that reads it.
#include <cstring>

extern "C" {

typedef struct nvmlDevice_st* nvmlDevice_t;
typedef struct {
  char busIdLegacy[16];
  unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
} nvmlPciInfo_t;
typedef struct {
  unsigned long long total, free, used;
} nvmlMemory_t;
typedef struct {
  unsigned int pid;
  unsigned long long usedGpuMemory;
  unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;
typedef struct {
  unsigned char clusterUuid[16];
  int status;
  unsigned int cliqueId;
  unsigned char state;
} nvmlGpuFabricInfo_t;

static bool sick(nvmlDevice_t d) { return reinterpret_cast<unsigned long>(d) == 2; }

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int) { return "GPU is lost"; }
int nvmlSystemGetDriverVersion(char* text, unsigned int) {
  std::strcpy(text, "550.54.15");
  return 0;
}
int nvmlSystemGetCudaDriverVersion_v2(int* v) {
  *v = 13000;
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned int* n) {
  *n = 3;
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvmlDevice_t* d) {
  if (i == 2) return 15;  // NVML_ERROR_GPU_IS_LOST
  *d = reinterpret_cast<nvmlDevice_t>(i + 1ul);
  return 0;
}
int nvmlDeviceGetName(nvmlDevice_t, char* text, unsigned int) {
  std::strcpy(text, "NVIDIA H100 80GB HBM3");
  return 0;
}
int nvmlDeviceGetPciInfo_v3(nvmlDevice_t, nvmlPciInfo_t* p) {
  std::strcpy(p->busId, "00000000:18:00.0");
  return 0;
}
int nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t* m) {
  m->total = 80ull << 30;
  m->used = sick(d) ? 5ull << 30 : 0;
  m->free = m->total - m->used;
  return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int* n,
                                            nvmlProcessInfo_t* list) {
  const unsigned int room = *n;
  *n = sick(d) ? 2 : 0;
  if (*n > room) return 7;  // NVML_ERROR_INSUFFICIENT_SIZE
  for (unsigned int i = 0; i < *n; ++i) list[i].pid = 100 + i;
  return 0;
}
int nvmlDeviceGetTemperature(nvmlDevice_t d, int sensor, unsigned int* c) {
  *c = sensor == 0 ? (sick(d) ? 86 : 31) : 0;
  return 0;
}
int nvmlDeviceGetTemperatureThreshold(nvmlDevice_t, int which, unsigned int* c) {
  *c = which == 1 ? 89 : 999;
  return 0;
}
int nvmlDeviceGetPowerUsage(nvmlDevice_t, unsigned int* mw) {
  *mw = 71500;
  return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t d, unsigned int* mw) {
  *mw = sick(d) ? 500000 : 700000;
  return 0;
}
int nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t, unsigned int* mw) {
  *mw = 700000;
  return 0;
}
int nvmlDeviceGetClockInfo(nvmlDevice_t, int clock, unsigned int* mhz) {
  *mhz = clock == 1 ? 345 : 0;
  return 0;
}
int nvmlDeviceGetMaxClockInfo(nvmlDevice_t, int clock, unsigned int* mhz) {
  *mhz = clock == 1 ? 1980 : 0;
  return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t d, unsigned long long* why) {
  *why = sick(d) ? 0x48 : 0x1;  // hardware slowdown, of heat; idle
  return 0;
}
int nvmlDeviceGetEccMode(nvmlDevice_t d, unsigned int* current, unsigned int* pending) {
  *current = sick(d) ? 0 : 1;
  *pending = 1;
  return 0;
}
int nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, int type, int counter, unsigned long long* n) {
  *n = type == 1 && counter == 0 && sick(d) ? 3 : 0;
  return 0;
}
int nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned int* corrected, unsigned int* uncorrected,
                              unsigned int* pending, unsigned int* failed) {
  *corrected = *uncorrected = 1;
  *pending = *failed = sick(d) ? 1 : 0;
  return 0;
}
int nvmlDeviceGetMigMode(nvmlDevice_t, unsigned int*, unsigned int*) { return 3; }  // not supported
int nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t d, unsigned int* w) {
  *w = sick(d) ? 8 : 16;
  return 0;
}
int nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t, unsigned int* w) {
  *w = 16;
  return 0;
}
int nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned int link, unsigned int* active) {
  if (link >= 18) return 2;  // NVML_ERROR_INVALID_ARGUMENT
  *active = sick(d) && link == 4 ? 0 : 1;
  return 0;
}
int nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t d, unsigned int link, int counter,
                                    unsigned long long* n) {
  *n = sick(d) && link == 7 && counter == 1 ? 9 : 0;
  return 0;
}
int nvmlDeviceGetGpuFabricInfo(nvmlDevice_t d, nvmlGpuFabricInfo_t* f) {
  f->state = sick(d) ? 2 : 3;
  f->status = 0;
  return 0;
}

}  // extern "C"
