import java.io.FileReader;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.eclipse.dataspacetck.core.system.ConsoleMonitor;
import org.eclipse.dataspacetck.runtime.ConsoleResultWriter;
import org.eclipse.dataspacetck.runtime.TckRuntime;

/** Runs the conformance kit with the properties of one file: the tests of the names given, of none every test. */
class RunKit {
    public static void main(String[] args) throws Exception {
        var read = new Properties();
        try (var file = new FileReader(args[0])) {
            read.load(file);
        }
        Map<String, String> properties = new HashMap<>();
        read.forEach((name, value) -> properties.put((String) name, (String) value));
        var names = List.of(args).subList(1, args.length);
        var monitor = new ConsoleMonitor(false, false);
        var summary = TckRuntime.Builder.newInstance()
                .properties(properties)
                .addPackage("org.eclipse.dataspacetck.dsp.verification")
                .displayNameMatching(title -> names.isEmpty() || names.contains(title.split(": ")[0]))
                .monitor(monitor)
                .build()
                .execute();
        new ConsoleResultWriter(monitor).output(summary);
        System.exit(0); // its thread pools would keep the machine alive
    }
}
