#!/usr/bin/env bash
# The second half of 'make up': a guest image, a virtual machine, and what to
# do next. Running it again changes nothing.
set -euo pipefail
virtmesh=$1
eval "$("$virtmesh" lab env host1)"
image=$("$virtmesh" lab image tiny)
"$virtmesh" apply -f - <<MANIFEST
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: hello
  namespace: default
spec:
  runStrategy: Always
  template:
    metadata:
      labels:
        kubevirt.io/vm: hello
    spec:
      domain:
        memory:
          guest: 128Mi
        devices:
          disks:
          - name: root
            disk:
              bus: virtio
          interfaces:
          - name: default
            masquerade: {}
      networks:
      - name: default
        pod: {}
      volumes:
      - name: root
        containerDisk:
          image: $image
MANIFEST
"$virtmesh" vm wait hello --timeout 3m
"$virtmesh" vm ls
cat <<NEXT

A guest runs. Next:

  $virtmesh lab env host2                      point kubectl or virtmesh at another host, with eval "\$(...)"
  eval "\$($virtmesh lab env host3)" && $virtmesh vm console hello
                                               its console, reached through host3; Ctrl+] leaves it
  $virtmesh status                             the mesh at a glance

'make down' ends the lab.
NEXT
