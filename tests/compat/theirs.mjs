// drizzle-multitenant migrates tenants a and b: FOLDER FORMAT. Prints how many
// files it has applied, or what is wrong.
import { createMigrator } from 'drizzle-multitenant/migrator';
import { defineConfig } from 'drizzle-multitenant';

const [folder, format] = process.argv.slice(2);
const config = defineConfig({
  connection: { url: process.env.COMPAT_URL },
  isolation: { strategy: 'schema', schemaNameTemplate: (id) => `t_${id}` },
  schemas: { tenant: {} },
});
const migrator = createMigrator(config, {
  migrationsFolder: folder,
  tenantDiscovery: async () => ['a', 'b'],
  tableFormat: 'auto',
  defaultFormat: format,
});
const results = await migrator.migrateAll();
for (const one of results.details)
  console.log(one.success ? one.appliedMigrations.length : one.error);
process.exit(0);
