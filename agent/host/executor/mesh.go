package executor

import "time"

// meshTimeout bounds each read and each write of the mesh's state. On a host that is
// cut off, every read and write would wait for a quorum and occupy a worker that other
// guests need.
const meshTimeout = 30 * time.Second
