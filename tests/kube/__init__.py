"""An API server for tests: a fake one over real HTTP, or the real one where its binaries are at hand.

api.py          what tests see: ApiServer, Call
server.py       FakeApiServer: HTTP, its thread, faults, freezing      real.py      etcd + kube-apiserver
fixtures.py     pytest fixture `api_server`                           kubelet.py   plays the cluster's other parts
routes.py       URL -> what is asked          discovery.py, openapi.py  /api, /apis, /version, /openapi/v3
operations.py   create, read, update, patch, delete                   scale.py     the /scale subresource
storage.py      objects, versions, change log  watch.py     streams    selectors.py, patches.py
kinds.py        built-in kinds                builtins.py   their defaults and basic checks
crds.py         custom kinds                  schema.py     structural schemas         rules.py   CEL
quota.py        pods and GPUs per namespace   objects.py    what tests send
mirror.py, podstatus.py   parts of the kubelet        conformance.py  what the conformance tests share
errors.py       metav1.Status answers         faults.py     injected failures          rbac.py    enforced rules
"""
