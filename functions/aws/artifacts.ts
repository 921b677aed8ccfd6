/** The artifact store: RKE2 releases under their upstream names. Nodes always install from here. */
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { artifactKeys } from "../../core/layout.js";
import { presigningClient } from "./deliveries.js";
import { readObject } from "./secrets.js";
import { listFiles } from "./state.js";

export interface ArtifactReader {
  readonly bucket: string;
  text(key: string): Promise<string | undefined>;
  /** File names of one release for one architecture. */
  files(version: string, architecture: string): Promise<readonly { readonly file: string; readonly bytes: number }[]>;
  /** Every release that has at least one file, with its architectures. */
  releases(): Promise<readonly { readonly version: string; readonly architecture: string; readonly file: string; readonly bytes: number }[]>;
}

export function artifactReader(bucket: string, s3: S3Client = new S3Client({})): ArtifactReader {
  const read = async (prefix: string) =>
    (await listFiles(bucket, prefix, s3)).flatMap(({ key, bytes }) => {
      const [, version, architecture, file] = key.split("/");
      return version && architecture && file ? [{ version, architecture, file, bytes }] : [];
    });
  return {
    bucket,
    text: (key) => readObject(s3, bucket, key),
    files: (version, architecture) => read(artifactKeys.release(version, architecture)),
    releases: () => read(artifactKeys.all),
  };
}

/** One file on its way into the store, in parts, so that a broken upload goes on where it stopped. */
export interface ArtifactWriter {
  /** Size and SHA-256 of the file that is there; undefined when there is none. The hash is what its uploader said and nodes verify. */
  stat(key: string): Promise<{ readonly bytes: number; readonly sha256: string | undefined } | undefined>;
  /** The upload of this very content that is under way, or a new one. */
  begin(key: string, sha256: string): Promise<string>;
  sentParts(key: string, uploadId: string): Promise<readonly { readonly number: number; readonly etag: string; readonly bytes: number }[]>;
  partUrl(key: string, uploadId: string, number: number): Promise<string>;
  /** Puts the parts together. False when the file was there first. */
  complete(key: string, uploadId: string, parts: readonly { readonly number: number; readonly etag: string }[], bytes: number): Promise<boolean>;
  abort(key: string, uploadId: string): Promise<void>;
}

/** 64 MiB: 10,000 parts of it are far more than any archive, and a lost connection costs little. */
export const partBytes = 64 * 1024 * 1024;

export function artifactWriter(bucket: string, s3: S3Client = presigningClient()): ArtifactWriter {
  const writer: ArtifactWriter = {
    async stat(key) {
      try {
        const head = await s3.send(new HeadObjectCommand({ Bucket: bucket, Key: key }));
        return { bytes: head.ContentLength ?? 0, sha256: head.Metadata?.sha256 };
      } catch (error) {
        if (error instanceof Error && ["NotFound", "NoSuchKey"].includes(error.name)) return undefined;
        throw error;
      }
    },
    async begin(key, sha256) {
      const open = await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: key }));
      const uploads = (open.Uploads ?? []).filter((upload) => upload.Key === key);
      const marked = uploads.find((upload) => upload.UploadId !== undefined);
      if (marked?.UploadId !== undefined) return marked.UploadId;
      const begun = await s3.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: key, Metadata: { sha256 } }));
      return begun.UploadId ?? "";
    },
    async sentParts(key, uploadId) {
      const parts: { number: number; etag: string; bytes: number }[] = [];
      let marker: string | undefined;
      do {
        const page = await s3.send(
          new ListPartsCommand({ Bucket: bucket, Key: key, UploadId: uploadId, ...(marker === undefined ? {} : { PartNumberMarker: marker }) }),
        );
        parts.push(...(page.Parts ?? []).map((part) => ({ number: part.PartNumber ?? 0, etag: part.ETag ?? "", bytes: part.Size ?? 0 })));
        marker = page.IsTruncated === true ? page.NextPartNumberMarker : undefined;
      } while (marker !== undefined);
      return parts;
    },
    partUrl: (key, uploadId, number) =>
      getSignedUrl(s3, new UploadPartCommand({ Bucket: bucket, Key: key, UploadId: uploadId, PartNumber: number }), {
        expiresIn: uploadLifetimeSeconds,
      }),
    async complete(key, uploadId, parts, bytes) {
      try {
        await s3.send(
          new CompleteMultipartUploadCommand({
            Bucket: bucket,
            Key: key,
            UploadId: uploadId,
            IfNoneMatch: "*",
            MpuObjectSize: bytes,
            MultipartUpload: { Parts: parts.map((part) => ({ PartNumber: part.number, ETag: part.etag })) },
          }),
        );
        return true;
      } catch (error) {
        if (error instanceof Error && ["PreconditionFailed", "ConditionalRequestConflict"].includes(error.name)) return false;
        throw error;
      }
    },
    async abort(key, uploadId) {
      await s3.send(new AbortMultipartUploadCommand({ Bucket: bucket, Key: key, UploadId: uploadId }));
    },
  };
  return writer;
}

/** A person's line may be slow: part addresses live an hour, and are asked for again when they have run out. */
const uploadLifetimeSeconds = 3600;
