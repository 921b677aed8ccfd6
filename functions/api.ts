/** HTTP routes for clusters and operations. Reads what is stored and what EC2 shows; changes go through admission. */
import {
  type ClusterStatus,
  type ClusterSummary,
  createRequestSchema,
  deleteRequestSchema,
  drillRequestSchema,
  type NodeStatus,
  snapshotRequestSchema,
} from "../core/api.js";
import { assessQuorum } from "../core/cluster-health.js";
import { nodeName, stateKeys } from "../core/layout.js";
import { byPlace } from "../core/nodes.js";
import type { ClusterRecord, Lease, OperationRecord } from "../core/records.js";
import { type AdmissionClients, admissionClients, admitBackup, admitCreate, admitDelete, admitDrill } from "./admission.js";
import type { StateStore } from "./aws/state.js";
import { httpHandler, NotFound, nameIn, type Route, readBody } from "./http.js";

const createCluster: Route<AdmissionClients> = async (request, clients, moment) => {
  const asked = readBody(createRequestSchema, request.body);
  const answer = await admitCreate({ ...asked, requestedBy: request.caller }, clients, moment);
  return { status: asked.preview ? 200 : 202, body: answer };
};

const deleteCluster: Route<AdmissionClients> = async (request, clients, moment) => {
  const asked = readBody(deleteRequestSchema, request.body);
  const answer = await admitDelete({ ...asked, cluster: nameIn(request.path), requestedBy: request.caller }, clients, moment);
  return { status: asked.preview ? 200 : 202, body: answer };
};

const createSnapshot: Route<AdmissionClients> = async (request, clients, moment) => {
  const asked = readBody(snapshotRequestSchema, request.body);
  const answer = await admitBackup({ ...asked, cluster: nameIn(request.path), requestedBy: request.caller }, clients, moment);
  return { status: asked.preview ? 200 : 202, body: answer };
};

const drillRestore: Route<AdmissionClients> = async (request, clients, moment) => {
  const asked = readBody(drillRequestSchema, request.body);
  const answer = await admitDrill({ ...asked, cluster: nameIn(request.path), requestedBy: request.caller }, clients, moment);
  return { status: asked.preview ? 200 : 202, body: answer };
};

const listClusters: Route<AdmissionClients> = async (_, { state }) => {
  const keys = (await state.list(stateKeys.allClusters)).filter((key) => key.endsWith("/record.json"));
  const records = await Promise.all(keys.map((key) => state.read<ClusterRecord>(key)));
  const clusters = records.flatMap((found): ClusterSummary[] => (found === undefined ? [] : [summary(found.value)]));
  return { status: 200, body: { clusters: clusters.sort((a, b) => a.name.localeCompare(b.name)) } };
};

const readCluster: Route<AdmissionClients> = async (request, { state, instances }, moment) => {
  const name = nameIn(request.path);
  const record = (await state.read<ClusterRecord>(stateKeys.record(name)))?.value;
  if (record === undefined) throw new NotFound(`There is no cluster ${name}`, "See which there are: drover list");
  const [observed, lease, operations] = await Promise.all([
    instances.ofCluster(record.uid),
    state.read<Lease>(stateKeys.lease(name)),
    operationsOf(name, state),
  ]);
  const nodes = [...observed]
    .filter((instance) => instance.state !== "terminated")
    .sort(byPlace)
    .map((instance): NodeStatus => {
      const { role, pool, slot, instanceId, instanceType, zone, address, state: instanceState, launchedAt } = instance;
      return { name: nodeName(pool, instanceId), role, pool, slot, instanceId, instanceType, zone, address, state: instanceState, launchedAt };
    });
  const [latest] = operations;
  const quorum = assessQuorum({ record, observed, now: moment.now });
  const status: ClusterStatus = {
    record,
    nodes,
    ...(lease === undefined ? {} : { lease: lease.value }),
    ...(latest === undefined ? {} : { operation: latest }),
    ...(quorum === undefined ? {} : { quorum }),
  };
  return { status: 200, body: status };
};

const listOperations: Route<AdmissionClients> = async (request, { state }) => {
  const name = nameIn(request.path);
  const operations = await operationsOf(name, state);
  if (operations.length === 0) throw new NotFound(`No operation on a cluster ${name} is known`, "See which clusters there are: drover list");
  return { status: 200, body: { operations } };
};

const readOperation: Route<AdmissionClients> = async (request, { state }) => {
  const name = nameIn(request.path);
  const id = request.path.operation ?? "";
  const operation = /^[A-Za-z0-9-]{1,80}$/.test(id) ? await state.read<OperationRecord>(stateKeys.operation(name, id)) : undefined;
  if (operation === undefined)
    throw new NotFound(`There is no operation ${id.slice(0, 80)} on ${name}`, `See which there are: drover operations ${name}`);
  return { status: 200, body: operation.value };
};

/** Newest first. */
async function operationsOf(cluster: string, state: StateStore): Promise<readonly OperationRecord[]> {
  const keys = await state.list(stateKeys.operations(cluster));
  const found = await Promise.all(keys.map((key) => state.read<OperationRecord>(key)));
  return found.flatMap((each) => (each === undefined ? [] : [each.value])).sort((a, b) => b.acceptedAt.localeCompare(a.acceptedAt));
}

function summary(record: ClusterRecord): ClusterSummary {
  const { servers, agentPools } = record.wanted.spec;
  return {
    name: record.name,
    phase: record.phase,
    version: record.resolved.version,
    servers: servers.count,
    agents: agentPools.reduce((sum, pool) => sum + pool.count, 0),
    createdAt: record.createdAt,
    ...(record.operation === undefined ? {} : { operation: record.operation }),
  };
}

export const handler = httpHandler(admissionClients, {
  createCluster,
  deleteCluster,
  listClusters,
  readCluster,
  listOperations,
  readOperation,
  createSnapshot,
  drillRestore,
});
